"""One abstract's way through all its agents.

One row is one abstract and one coroutine: ask (both question agents) → retrieve → evaluate → answer. Many coroutines
are in flight on one engine; its continuous batching mixes their calls, and its prefix cache finds the abstract again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.preamble import DECISIONS, SIDES, VERDICTS
from kailin_ray.config import DistillConfig, QuestionAgent
from kailin_ray.generation import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.index import Hit
from kailin_ray.schema import FAILED, OK, REJECTED

if TYPE_CHECKING:
    from kailin_ray.engine import Engine

Document = dict[str, Any]
Search = Callable[[str, int, int | None], Awaitable[list[Hit]]]

DETAIL_CHARS = 500


class RejectedRowError(Exception):
    """The row ends here, with a reason of ``schema.REASONS`` and a detail."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail[:DETAIL_CHARS]


@dataclass(frozen=True)
class Candidate:
    """One agent's question with its contexts."""

    agent: str
    question: str
    hits: list[Hit]
    contexts: list[str]
    """What the other agents are shown of the hits."""
    mesh_score: float | None


@dataclass(frozen=True)
class Distiller:
    """What the agents of one actor work with."""

    config: DistillConfig
    engine: "Engine"
    search: Search
    mesh: MeshHierarchy

    async def record(self, document: Document) -> dict[str, Any]:
        """Walk one document through all agents; return its record. Only a dead engine raises."""
        row = _Row(document)
        try:
            await self._walk(row)
            status, reason, detail = OK, None, None
        except RejectedRowError as end:
            status, reason, detail = REJECTED, end.reason, end.detail
        except EngineDeadError:
            raise
        except Exception as error:  # one row's fault must not end the run; it is recorded and counted
            status, reason, detail = FAILED, "agent_error", f"{type(error).__name__}: {error}"[:DETAIL_CHARS]
        return {**document, **row.columns, "usage": row.usage, "status": status, "reason": reason, "detail": detail}

    async def _walk(self, row: "_Row") -> None:
        document = row.document
        if not document["abstract"]:
            raise RejectedRowError("no_abstract")
        source = [heading["ui"] for heading in document["mesh"]]
        if self.config.evaluation.by == "rule" and not any(ui in self._number for ui in source):
            raise RejectedRowError("no_mesh", f"{len(source)} MeSH headings")
        agents = {"general": self.config.model.general, "biomedical": self.config.model.biomedical}
        asked = (self._candidate(row, name, agent, source) for name, agent in agents.items())
        made = await asyncio.gather(*asked, return_exceptions=True)
        for fault in made:
            if isinstance(fault, BaseException):
                raise fault
        candidates = [one for one in made if isinstance(one, Candidate)]
        if not candidates:
            detail = "; ".join(str(one) for one in made)
            raise RejectedRowError("no_contexts" if "no_contexts: " in detail else "no_valid_question", detail)
        row.columns["candidates"] = [_candidate_row(one) for one in candidates]
        verdict = await self._evaluate(row, candidates)
        row.columns |= {"preferred": verdict.preferred, "preferred_by": verdict.by, "margin": verdict.margin}
        if verdict.preferred is None:
            fields = ("mesh_score", "judge_probability")
            scores = "; ".join(f"{name} {[c[name] for c in row.columns['candidates']]}" for name in fields)
            raise RejectedRowError("no_preference", scores)
        await self._answer(row, candidates[verdict.preferred])

    async def _evaluate(self, row: "_Row", candidates: list[Candidate]) -> evaluation.Verdict:
        """Which candidate is preferred; fills in the judge's columns."""
        # Two agents that ask the same question leave nothing to prefer.
        if len({one.question for one in candidates}) < 2:
            return evaluation.ONLY
        settings = self.config.evaluation
        if settings.by != "judge":
            verdict = evaluation.prefer([one.mesh_score for one in candidates], settings.min_margin, "rule")
            if verdict.preferred is not None or settings.by == "rule":
                return verdict
        probabilities, orders = await self._judge(row, candidates)
        row.columns["judge_orders"] = orders
        for column, probability in zip(row.columns["candidates"], probabilities, strict=True):
            column["judge_probability"] = probability
        return evaluation.prefer(probabilities, settings.judge.min_margin, "judge")

    async def _judge(self, row: "_Row", candidates: list[Candidate]) -> tuple[list[float], list[float] | None]:
        """Each candidate's probability, and of a pairwise judge that of the first candidate in either order."""
        pairwise = self.config.evaluation.judge.form == "pairwise"
        shown = [(one.question, list(one.contexts)) for one in candidates]
        while True:
            if pairwise:
                words: Sequence[str] = SIDES
                prompts = [evaluation.pairwise_messages(row.document, *pair) for pair in (shown, shown[::-1])]
            else:
                words = VERDICTS
                prompts = [evaluation.pointwise_messages(row.document, one) for one in shown]
            calls = [self.engine.choose(messages, words) for messages in prompts]
            asked = await asyncio.gather(*calls, return_exceptions=True)
            said = [call for call in asked if isinstance(call, Generation)]
            for call in said:
                row.count("judge", call)
            if len(said) == len(asked):
                break
            fault = next(call for call in asked if isinstance(call, BaseException))
            if not isinstance(fault, PromptTooLongError):
                raise fault
            if not any(contexts for _, contexts in shown):
                raise RejectedRowError("abstract_too_long", str(fault)) from fault
            # Of both, so that neither candidate is shown with more evidence than the other.
            for _, contexts in shown:
                del contexts[-1:]
        if not pairwise:
            return [call.probabilities[VERDICTS[0]] for call in said], None
        orders = [call.probabilities[side] for call, side in zip(said, SIDES, strict=True)]
        return evaluation.from_orders(*orders), orders

    async def _candidate(
        self, row: "_Row", name: str, agent: QuestionAgent, source: Sequence[str]
    ) -> "Candidate | str":
        """The agent's question with its contexts and their MeSH score, or what was wrong with the question."""
        try:
            asked = await self.engine.generate(
                question.messages(row.document, agent.persona), _sampling(agent.sampling)
            )
        except PromptTooLongError as error:
            raise RejectedRowError("abstract_too_long", str(error)) from error
        row.count(name, asked)
        problem = question.problem(asked.text, asked.finish_reason, row.document)
        if problem:
            return f"{name}: {problem}: {asked.text[:150]!r}"
        retrieval = self.config.retrieval
        hits = await self.search(
            asked.text, retrieval.top_k, row.document["pmid"] if retrieval.exclude_source else None
        )
        if not hits:
            return f"{name}: no_contexts: {asked.text[:150]!r}"
        contexts = [_shown(hit, retrieval.max_context_words) for hit in hits]
        return Candidate(name, asked.text, hits, contexts, self._mesh_score(source, hits))

    def _mesh_score(self, source: Sequence[str], hits: list[Hit]) -> float | None:
        """The rule's score of a candidate: the mean similarity of its contexts' descriptors to the source's."""
        rule = self.config.evaluation
        sources, contexts = self._numbers([source] * len(hits)), self._numbers([hit.mesh for hit in hits])
        return evaluation.candidate_score(self.mesh.score(sources, contexts, rule.measure, rule.aggregate).to_pylist())

    def _numbers(self, sets: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        number = self._number.get
        values = np.array([number(ui, -1) for uis in sets for ui in uis], dtype=np.int32)
        return np.array([0, *accumulate(map(len, sets))]), values

    @cached_property
    def _number(self) -> dict[str, int]:
        return self.mesh.numbers()

    async def _answer(self, row: "_Row", preferred: Candidate) -> None:
        asked, agent = preferred.question, self.config.model.answer
        contexts = list(preferred.contexts)
        while True:
            try:
                given = await self.engine.generate(
                    answer.messages(row.document, asked, contexts), _sampling(agent.sampling)
                )
                break
            except PromptTooLongError as error:
                # What does not fit is cut at the contexts, the least relevant first: never the abstract or the task.
                if not contexts:
                    raise RejectedRowError("abstract_too_long", str(error)) from error
                contexts.pop()
        row.count("answer", given)
        row.columns |= {"contexts_text": contexts, "answer": given.text}
        problem = answer.problem(given.text, given.finish_reason, asked)
        if problem:
            raise RejectedRowError(problem, given.text)
        if question.is_yes_no(asked):
            try:
                decided = await self.engine.choose(
                    answer.decision_messages(row.document, asked, contexts, given.text), DECISIONS
                )
            except PromptTooLongError as error:
                raise RejectedRowError("abstract_too_long", str(error)) from error
            row.count("decision", decided)
            row.columns["decision"] = {"word": decided.text, **decided.probabilities}


@dataclass
class _Row:
    document: Document
    columns: dict[str, Any] = field(default_factory=dict)
    usage: list[dict[str, Any]] = field(default_factory=list)

    def count(self, agent: str, call: Generation) -> None:
        self.usage.append(
            {
                "agent": agent,
                "prompt_tokens": call.prompt_tokens,
                "cached_tokens": call.cached_tokens,
                "completion_tokens": call.completion_tokens,
                "finish_reason": call.finish_reason,
            }
        )


def _sampling(sampling: Any) -> dict[str, Any]:
    return dict(vars(sampling))


def _candidate_row(one: Candidate) -> dict[str, Any]:
    return {
        "agent": one.agent,
        "question": one.question,
        "contexts": [
            {"pmid": hit.pmid, "score": hit.score, "text": text}
            for hit, text in zip(one.hits, one.contexts, strict=True)
        ],
        "mesh_score": one.mesh_score,
        "judge_probability": None,
    }


def _shown(hit: Hit, max_words: int | None) -> str:
    words = f"{hit.title} {hit.text}".split()
    return " ".join(words[:max_words]) + (" …" if max_words and len(words) > max_words else "")
