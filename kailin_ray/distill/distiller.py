"""One abstract's way through its agents.

One row is one abstract and one coroutine: ask (both question agents) → retrieve → evaluate → answer. Many coroutines
are in flight on one engine; its continuous batching mixes their calls, and its prefix cache finds the abstract again.
Where agents have engines of their own, the way is cut into stages: the record carries all that the next one needs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.prompts import DECISIONS, SIDES, VERDICTS
from kailin_ray.config import Agents
from kailin_ray.dataset.rows import Record
from kailin_ray.engines.interface import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.stages import QUESTION_AGENTS, RULE
from kailin_ray.retrieval.search.fusion import mesh_rerank
from kailin_ray.retrieval.search.index import Hit
from kailin_ray.schema import ANSWER, ASKING, EVALUATION, FAILED, OK, REJECTED, Json

if TYPE_CHECKING:
    from kailin_ray.engines.vllm_engine import Engine

Search = Callable[[str, int, int | None], Awaitable[list[Hit]]]

DETAIL_CHARS = 500
RERANKED = 100
"""Passages that MeSH similarity moves, where it does."""


class RejectedRowError(Exception):
    """The row ends here, with a reason of ``schema.REASONS`` and a detail."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail[:DETAIL_CHARS]


@dataclass(frozen=True)
class Distiller:
    """What the agents of one stage work with."""

    config: Agents
    steps: tuple[str, ...]
    """Of ``stages.Stage``: what is done here of an abstract's way."""
    engine: "Engine"
    search: Search
    mesh: MeshHierarchy

    async def record(self, row: Record) -> Record:
        """Walk a document, or the record that an earlier stage began, through this stage's steps; return its record.

        A record without a status is on its way to a later stage. Only a dead engine raises.
        """
        if row.get("status"):
            return row
        record = {**dict.fromkeys(("usage", "candidates", "status", "stage", "reason", "detail")), **row}
        record["usage"] = list(record["usage"] or [])
        try:
            await self._walk(record)
            if "answer" in self.steps:
                record |= {"status": OK, "stage": None}
                for call in record["usage"]:
                    call["output"] = None
        except RejectedRowError as end:
            record |= {"status": REJECTED, "reason": end.reason, "detail": end.detail}
        except EngineDeadError:
            raise
        except Exception as error:  # one row's fault must not end the run; it is recorded and counted
            detail = f"{type(error).__name__}: {error}"[:DETAIL_CHARS]
            record |= {"status": FAILED, "reason": "agent_error", "detail": detail}
        return record

    async def _walk(self, record: Record) -> None:
        asking = [step for step in self.steps if step in QUESTION_AGENTS]
        if asking:
            record["stage"] = ASKING
            await self._ask(record, asking)
        if RULE in self.steps:
            record["stage"] = EVALUATION if record["candidates"] else ASKING
            self._rule(record)
        if "judge" in self.steps and record.get("preferred_by") is None:
            record["stage"] = EVALUATION
            await self._judge(record)
        if "answer" in self.steps:
            record["stage"] = ANSWER
            await self._answer(record)

    async def _ask(self, record: Record, agents: Sequence[str]) -> None:
        """Fill in the candidates of the question agents; of those that give none, ``detail`` says why."""
        if not record["abstract"]:
            raise RejectedRowError("no_abstract")
        source = [heading["ui"] for heading in record["mesh"]]
        if self.config.evaluation.by == RULE and not any(ui in self._number for ui in source):
            raise RejectedRowError("no_mesh", f"{len(source)} MeSH headings")
        asked = (self._candidate(record, name, source) for name in agents)
        made = await asyncio.gather(*asked, return_exceptions=True)
        for fault in made:
            if isinstance(fault, BaseException):
                raise fault
        candidates = [*(record["candidates"] or []), *(one for one in made if isinstance(one, dict))]
        record["candidates"] = sorted(candidates, key=lambda one: QUESTION_AGENTS.index(one["agent"]))
        problems = [record.get("detail"), *(one for one in made if isinstance(one, str))]
        record["detail"] = "; ".join(one for one in problems if one)[:DETAIL_CHARS] or None

    def _rule(self, record: Record) -> None:
        """Prefer a candidate where no judge is needed; reject the row where none could help."""
        candidates = record["candidates"]
        if not candidates:
            detail = record["detail"] or ""
            raise RejectedRowError("no_contexts" if "no_contexts: " in detail else "no_valid_question", detail)
        settings = self.config.evaluation
        # Two agents that ask the same question leave nothing to prefer.
        if len({one["question"] for one in candidates}) < 2:
            _settle(record, evaluation.ONLY)
        elif settings.by != "judge":
            scores = [one["mesh_score"] for one in candidates]
            _settle(record, evaluation.prefer(scores, settings.min_margin, RULE))
        if settings.by == RULE:
            _require_preference(record)

    async def _judge(self, record: Record) -> None:
        probabilities, orders = await self.verdicts(record)
        record["judge_orders"] = orders
        for candidate, probability in zip(record["candidates"], probabilities, strict=True):
            candidate["judge_probability"] = probability
        _settle(record, evaluation.prefer(probabilities, self.config.evaluation.judge.min_margin, "judge"))
        _require_preference(record)

    async def verdicts(self, record: Record) -> tuple[list[float], list[float] | None]:
        """Each candidate's probability, and of a pairwise judge that of the first candidate in either order.

        Of the record it takes title, abstract and ``candidates``, and adds to ``usage``. Raises ``RejectedRowError`` if
        the abstract and the task alone are too long.
        """
        pairwise = self.config.evaluation.judge.form == "pairwise"
        agent = self.config.model.judge
        shown = [(one["question"], _texts(one)) for one in record["candidates"]]
        cut = 0
        while True:
            if pairwise:
                words: Sequence[str] = SIDES
                prompts = [evaluation.pairwise_messages(record, a, b, agent.examples) for a, b in (shown, shown[::-1])]
            else:
                words = VERDICTS
                prompts = [evaluation.pointwise_messages(record, one, agent.examples) for one in shown]
            calls = [self.engine.choose(messages, words, agent.adapter) for messages in prompts]
            asked = await asyncio.gather(*calls, return_exceptions=True)
            said = [call for call in asked if isinstance(call, Generation)]
            for call in said:
                _count(record, "judge", call, cut)
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
            cut += 1
        if not pairwise:
            return [call.probabilities[VERDICTS[0]] for call in said], None
        orders = [call.probabilities[side] for call, side in zip(said, SIDES, strict=True)]
        return evaluation.from_orders(*orders), orders

    async def _candidate(self, record: Record, name: str, source: Sequence[str]) -> "Record | str":
        """The agent's question with its contexts and their MeSH score, or what was wrong with the question."""
        agent = getattr(self.config.model, name)
        try:
            messages = question.messages(record, agent.persona, agent.examples)
            asked = await self.engine.generate(messages, _sampling(agent.sampling), agent.adapter)
        except PromptTooLongError as error:
            raise RejectedRowError("abstract_too_long", str(error)) from error
        _count(record, name, asked)
        problem = question.problem(asked.text, asked.finish_reason, record)
        if problem:
            return f"{name}: {problem}: {asked.text[:150]!r}"
        retrieval = self.config.retrieval
        hits = await self._contexts(asked.text, record["pmid"], source)
        if not hits:
            return f"{name}: no_contexts: {asked.text[:150]!r}"
        return {
            "agent": name,
            "question": asked.text,
            "contexts": [
                {"pmid": hit.pmid, "score": hit.score, "text": _format_passage(hit, retrieval.max_context_words)}
                for hit in hits
            ],
            "mesh_score": self._mesh_score(source, hits),
            "judge_probability": None,
        }

    async def _contexts(self, asked: str, pmid: int, source: Sequence[str]) -> list[Hit]:
        retrieval = self.config.retrieval
        exclude = pmid if retrieval.exclude_source else None
        if not retrieval.mesh_weight:
            return await self.search(asked, retrieval.top_k, exclude)
        hits = await self.search(asked, max(RERANKED, retrieval.top_k), exclude)
        of_pmid = {hit.pmid: hit for hit in hits}
        moved = mesh_rerank(list(of_pmid), self._similarities(source, hits), retrieval.mesh_weight)
        return [of_pmid[pmid] for pmid in moved[: retrieval.top_k]]

    def _mesh_score(self, source: Sequence[str], hits: list[Hit]) -> float | None:
        """The rule's score of a candidate: the mean similarity of its contexts' descriptors to the source's."""
        return evaluation.candidate_score(self._similarities(source, hits))

    def _similarities(self, source: Sequence[str], hits: list[Hit]) -> list[float | None]:
        rule = self.config.evaluation
        sources, contexts = self._numbers([source] * len(hits)), self._numbers([hit.mesh for hit in hits])
        found: list[float | None] = self.mesh.score(sources, contexts, rule.measure, rule.aggregate).to_pylist()
        return found

    def _numbers(self, sets: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        number = self._number.get
        values = np.array([number(ui, -1) for uis in sets for ui in uis], dtype=np.int32)
        return np.array([0, *accumulate(map(len, sets))]), values

    @cached_property
    def _number(self) -> dict[str, int]:
        return self.mesh.numbers()

    async def _answer(self, record: Record) -> None:
        preferred, agent = record["candidates"][record["preferred"]], self.config.model.answer
        asked, contexts = preferred["question"], _texts(preferred)
        while True:
            try:
                messages = answer.messages(record, asked, contexts, agent.examples)
                given = await self.engine.generate(messages, _sampling(agent.sampling), agent.adapter)
                break
            except PromptTooLongError as error:
                # What does not fit is cut at the contexts, the least relevant first: never the abstract or the task.
                if not contexts:
                    raise RejectedRowError("abstract_too_long", str(error)) from error
                contexts.pop()
        _count(record, "answer", given, len(preferred["contexts"]) - len(contexts))
        record |= {"contexts_text": contexts, "answer": given.text}
        problem = answer.problem(given.text, given.finish_reason, asked)
        if problem:
            raise RejectedRowError(problem, given.text)
        if question.is_yes_no(asked):
            try:
                messages = answer.decision_messages(record, asked, contexts, given.text, agent.examples)
                decided = await self.engine.choose(messages, DECISIONS, agent.adapter)
            except PromptTooLongError as error:
                raise RejectedRowError("abstract_too_long", str(error)) from error
            _count(record, "decision", decided, len(preferred["contexts"]) - len(contexts))
            record["decision"] = {"word": decided.text, **decided.probabilities}


def engine_died(row: Record, deaths: int) -> Record:
    """The record of a row that engines die of."""
    steps = dict.fromkeys(("candidates", "preferred"), None) | row
    stage = ANSWER if steps["preferred"] is not None else EVALUATION if steps["candidates"] else ASKING
    detail = f"{deaths} engines died while it was in them, the last one when it was alone there"
    usage = list(row.get("usage") or [])
    return row | {"usage": usage, "status": FAILED, "stage": stage, "reason": "engine_died", "detail": detail}


def _settle(record: Record, verdict: evaluation.Verdict) -> None:
    record |= {"preferred": verdict.preferred, "preferred_by": verdict.by, "margin": verdict.margin}


def _require_preference(record: Record) -> None:
    if record["preferred"] is None:
        fields = ("mesh_score", "judge_probability")
        scores = (f"{name} {[one[name] for one in record['candidates']]}" for name in fields)
        raise RejectedRowError("no_preference", "; ".join(scores))


def _count(record: Record, agent: str, call: Generation, contexts_cut: int = 0) -> None:
    """Add what a call took to the record's usage."""
    record["usage"].append(
        {
            "agent": agent,
            "prompt_tokens": call.prompt_tokens,
            "cached_tokens": call.cached_tokens,
            "completion_tokens": call.completion_tokens,
            "finish_reason": call.finish_reason,
            "contexts_cut": contexts_cut,
            "queue_seconds": call.queue_seconds,
            "first_token_seconds": call.first_token_seconds,
            "seconds": call.seconds,
            "prompt_hash": call.prompt_hash,
            "output": call.text,
        }
    )


def _sampling(sampling: Any) -> Json:
    return dict(vars(sampling))


def _texts(candidate: Record) -> list[str]:
    return [context["text"] for context in candidate["contexts"]]


def _format_passage(hit: Hit, max_words: int | None) -> str:
    words = f"{hit.title} {hit.text}".split()
    return " ".join(words[:max_words]) + (" …" if max_words and len(words) > max_words else "")
