"""Distil one abstract: pass it through all agents.

One row is one abstract and one coroutine: ask (both question agents) → retrieve → evaluate → answer. Many coroutines
are in flight on one engine; its continuous batching mixes their calls, and its prefix cache holds the abstract.
If agents have engines of their own, the steps are split into stages. The record carries what the next stage needs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.decisions import contradicts
from kailin_ray.agents.numbers import find_unseen_numbers
from kailin_ray.agents.passages import context_passage, cut_passage, join_passage, source_passage
from kailin_ray.agents.prompts import DECISIONS, SIDES, VERDICTS
from kailin_ray.config import Agents
from kailin_ray.dataset.rows import Record
from kailin_ray.engines.interface import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.stages import QUESTION_AGENTS, RULE
from kailin_ray.retrieval.search.fusion import mesh_rerank
from kailin_ray.retrieval.search.index import Hit
from kailin_ray.runtime.faults import describe_error
from kailin_ray.schema import ANSWER, ASKING, EVALUATION, FAILED, OK, REJECTED, Json

if TYPE_CHECKING:
    from kailin_ray.engines.vllm_engine import Engine

Search = Callable[[str, int, int | None], Awaitable[list[Hit]]]

DETAIL_CHARS = 500
RERANKED = 100
"""Number of passages that are reranked by MeSH similarity, if ``retrieval.mesh_weight`` is set."""


class RejectedRowError(Exception):
    """The row is rejected, with a reason of ``schema.REASONS`` and a detail."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail[:DETAIL_CHARS]


@dataclass(frozen=True)
class Distiller:
    """Runs the agents of one stage on a row."""

    config: Agents
    steps: tuple[str, ...]
    """The steps of this stage (see ``stages.Stage``)."""
    engine: "Engine"
    search: Search
    mesh: MeshHierarchy

    async def record(self, row: Record) -> Record:
        """Run this stage's steps on a document, or on the record of an earlier stage; return the record.

        A record without a status continues in a later stage. Raises only ``EngineDeadError``.
        """
        if row.get("status"):
            return row
        record = {**dict.fromkeys(("usage", "reasoning", "candidates", "status", "stage", "reason", "detail")), **row}
        record["usage"], record["reasoning"] = list(record["usage"] or []), list(record["reasoning"] or [])
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
        except Exception as error:  # the fault of one row must not end the run; it is recorded and counted
            record |= {"status": FAILED, "reason": "agent_error", "detail": describe_error(error)[:DETAIL_CHARS]}
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
        """Add the candidates of the question agents; if an agent has none, ``detail`` says why."""
        if not record["abstract"]:
            raise RejectedRowError("no_abstract")
        source = [heading["ui"] for heading in record["mesh"]]
        if self.config.evaluation.method == RULE and not any(ui in self._number for ui in source):
            raise RejectedRowError("no_mesh", f"{len(source)} MeSH headings")
        calls = (self._candidate(record, name, source) for name in agents)
        results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        candidates = [*(record["candidates"] or []), *(result for result in results if isinstance(result, dict))]
        record["candidates"] = sorted(candidates, key=lambda candidate: QUESTION_AGENTS.index(candidate["agent"]))
        problems = [record.get("detail"), *(result for result in results if isinstance(result, str))]
        record["detail"] = "; ".join(problem for problem in problems if problem)[:DETAIL_CHARS] or None

    def _rule(self, record: Record) -> None:
        """Prefer a candidate if that needs no judge; reject the row if a judge could not help."""
        candidates = record["candidates"]
        if not candidates:
            detail = record["detail"] or ""
            raise RejectedRowError("no_contexts" if "no_contexts: " in detail else "no_valid_question", detail)
        settings = self.config.evaluation
        # If both agents ask the same question, there is nothing to prefer.
        if len({candidate["question"] for candidate in candidates}) < 2:
            _settle(record, evaluation.ONLY)
        elif settings.method != "judge":
            scores = [candidate["mesh_score"] for candidate in candidates]
            _settle(record, evaluation.prefer(scores, settings.min_margin, RULE))
        if settings.method == RULE:
            _require_preference(record)

    async def _judge(self, record: Record) -> None:
        probabilities, orders = await self.verdicts(record)
        record["judge_orders"] = orders
        for candidate, probability in zip(record["candidates"], probabilities, strict=True):
            candidate["judge_probability"] = probability
        _settle(record, evaluation.prefer(probabilities, self.config.evaluation.judge.min_margin, "judge"))
        _require_preference(record)

    async def verdicts(self, record: Record) -> tuple[list[float], list[float] | None]:
        """Return each candidate's probability and, for a pairwise judge, that of the first candidate in each order.

        Reads title, abstract and ``candidates`` of the record, and adds to its ``usage``. Raises ``RejectedRowError``
        if abstract and task are too long even without contexts.
        """
        pairwise = self.config.evaluation.judge.mode == "pairwise"
        agent = self.config.model.judge
        shown = [(candidate["question"], _texts(candidate)) for candidate in record["candidates"]]
        num_cut = 0
        while True:
            if pairwise:
                words: Sequence[str] = SIDES
                prompts = [evaluation.pairwise_messages(record, a, b, agent.examples) for a, b in (shown, shown[::-1])]
            else:
                words = VERDICTS
                prompts = [evaluation.pointwise_messages(record, candidate, agent.examples) for candidate in shown]
            calls = [self.engine.choose(messages, words, agent.adapter) for messages in prompts]
            results = await asyncio.gather(*calls, return_exceptions=True)
            generations = [result for result in results if isinstance(result, Generation)]
            for generation in generations:
                _count(record, "judge", generation, num_cut)
            if len(generations) == len(results):
                break
            fault = next(result for result in results if isinstance(result, BaseException))
            if not isinstance(fault, PromptTooLongError):
                raise fault
            if not any(contexts for _, contexts in shown):
                raise RejectedRowError("abstract_too_long", str(fault)) from fault
            # The last context of both is cut, so that neither candidate is shown with more evidence than the other.
            for _, contexts in shown:
                del contexts[-1:]
            num_cut += 1
        if not pairwise:
            return [generation.probabilities[VERDICTS[0]] for generation in generations], None
        orders = [generation.probabilities[side] for generation, side in zip(generations, SIDES, strict=True)]
        return evaluation.from_orders(*orders), orders

    async def _candidate(self, record: Record, name: str, source: Sequence[str]) -> "Record | str":
        """Return the agent's question with its contexts and MeSH score, or a text that says why it has no candidate."""
        agent = getattr(self.config.model, name)
        try:
            messages = question.messages(record, agent.persona, agent.examples)
            generation = await self.engine.generate(messages, _sampling(agent.sampling), agent.adapter)
        except PromptTooLongError as error:
            raise RejectedRowError("abstract_too_long", str(error)) from error
        _count(record, name, generation)
        problem = question.problem(generation.text, generation.finish_reason, record)
        problem = problem or ("markup" if generation.special_tokens else None)
        if problem:
            return f"{name}: {problem}: {_excerpt(generation)[:150]!r}"
        hits = await self._contexts(generation.text, record["pmid"], source)
        if not hits:
            return f"{name}: no_contexts: {generation.text[:150]!r}"
        return {
            "agent": name,
            "question": generation.text,
            "contexts": [_format_context(hit, self.config.retrieval.max_context_words) for hit in hits],
            "mesh_score": self._mesh_score(source, hits),
            "judge_probability": None,
        }

    async def _contexts(self, query: str, pmid: int, source: Sequence[str]) -> list[Hit]:
        retrieval = self.config.retrieval
        exclude = pmid if retrieval.exclude_source else None
        if not retrieval.mesh_weight:
            return await self.search(query, retrieval.top_k, exclude)
        hits = await self.search(query, max(RERANKED, retrieval.top_k), exclude)
        of_pmid = {hit.pmid: hit for hit in hits}
        reranked = mesh_rerank(list(of_pmid), self._similarities(source, hits), retrieval.mesh_weight)
        return [of_pmid[pmid] for pmid in reranked[: retrieval.top_k]]

    def _mesh_score(self, source: Sequence[str], hits: list[Hit]) -> float | None:
        """Return the rule's score of a candidate: the mean similarity of its contexts' descriptors to the source's."""
        return evaluation.candidate_score(self._similarities(source, hits))

    def _similarities(self, source: Sequence[str], hits: list[Hit]) -> list[float | None]:
        rule = self.config.evaluation
        sources, contexts = self._numbers([source] * len(hits)), self._numbers([hit.mesh for hit in hits])
        similarities: list[float | None] = self.mesh.score(sources, contexts, rule.measure, rule.aggregate).to_pylist()
        return similarities

    def _numbers(self, sets: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
        number = self._number.get
        values = np.array([number(ui, -1) for uis in sets for ui in uis], dtype=np.int32)
        return np.array([0, *accumulate(map(len, sets))]), values

    @cached_property
    def _number(self) -> dict[str, int]:
        return self.mesh.numbers()

    async def _answer(self, record: Record) -> None:
        preferred, agent = record["candidates"][record["preferred"]], self.config.model.answer
        query, shown, num_cut = preferred["question"], self._list_shown(record, preferred), 0
        while True:
            try:
                messages = answer.messages(shown, query, agent.examples)
                generation = await self.engine.generate(messages, _sampling(agent.sampling), agent.adapter)
                break
            except PromptTooLongError as error:
                # Contexts are cut, the least relevant first, and never the source, the task or the only passage.
                if len(shown) == 1:
                    raise RejectedRowError("abstract_too_long", str(error)) from error
                shown.pop()
                num_cut += 1
        _count(record, "answer", generation, num_cut)
        record |= {"shown": shown, "answer": generation.text}
        texts = (join_passage(passage["title"], passage["text"]) for passage in shown)
        record["unseen_numbers"] = find_unseen_numbers(generation.text, texts)
        problem = answer.problem(generation.text, generation.finish_reason, query)
        problem = problem or ("answer_malformed" if generation.special_tokens else None)
        if problem == "answer_empty" and generation.finish_reason == "length":
            problem = "answer_truncated"  # within the reasoning
        problem = problem or answer.find_copy(generation.text, shown)
        if problem:
            raise RejectedRowError(problem, _excerpt(generation))
        limit, unseen = self.config.answer.max_unseen_numbers, record["unseen_numbers"]
        if limit is not None and len(unseen) > limit:
            raise RejectedRowError("answer_unseen_numbers", f"{len(unseen)}, {limit} allowed: {', '.join(unseen)}")
        if question.is_yes_no(query):
            await self._decide(record, query, num_cut)

    async def _decide(self, record: Record, query: str, num_cut: int) -> None:
        """Add the decision on a yes/no question; reject the row if its answer states something else."""
        agent = self.config.model.answer
        try:
            messages = answer.decision_messages(record["shown"], query, record["answer"], agent.examples)
            decision = await self.engine.choose(messages, DECISIONS, agent.adapter)
        except PromptTooLongError as error:
            raise RejectedRowError("abstract_too_long", str(error)) from error
        _count(record, "decision", decision, num_cut)
        record["decision"] = {"word": decision.text, **decision.probabilities}
        if contradicts(record["answer"], query, decision.text):
            raise RejectedRowError("answer_contradicts_decision", f"decision {decision.text}: {record['answer']}")

    def _list_shown(self, record: Record, candidate: Record) -> list[Record]:
        """Return the passages that the answer agent is to be shown, in order."""
        shown = self.config.answer.shown
        source = [source_passage(record)] if "source" in shown else []
        contexts = candidate["contexts"] if "contexts" in shown else []
        return source + [context_passage(context, record["pmid"]) for context in contexts]


def engine_died(row: Record, deaths: int) -> Record:
    """Return the failed record of a row that kills engines."""
    progress = dict.fromkeys(("candidates", "preferred"), None) | row
    stage = ANSWER if progress["preferred"] is not None else EVALUATION if progress["candidates"] else ASKING
    detail = f"{deaths} engines died or fell silent with this abstract in them; the last one had no other abstract"
    usage = list(row.get("usage") or [])
    return row | {"usage": usage, "status": FAILED, "stage": stage, "reason": "engine_died", "detail": detail}


def _settle(record: Record, verdict: evaluation.Verdict) -> None:
    record |= {"preferred": verdict.preferred, "preferred_by": verdict.by, "margin": verdict.margin}


def _require_preference(record: Record) -> None:
    if record["preferred"] is None:
        fields = ("mesh_score", "judge_probability")
        scores = (f"{name} {[candidate[name] for candidate in record['candidates']]}" for name in fields)
        raise RejectedRowError("no_preference", "; ".join(scores))


def _count(record: Record, agent: str, call: Generation, contexts_cut: int = 0) -> None:
    """Add a call to the record's usage, and what the model reasoned."""
    if call.reasoning:
        record["reasoning"].append({"agent": agent, "text": call.reasoning})
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


def _excerpt(call: Generation) -> str:
    """Return the end of what the model wrote, if that was reasoning only; otherwise its answer."""
    if call.text or not call.reasoning:
        return call.text
    return f"only reasoning, in {call.completion_tokens} tokens: ... {call.reasoning[-100:]}"


def _sampling(sampling: Any) -> Json:
    return dict(vars(sampling))


def _texts(candidate: Record) -> list[str]:
    return [context["text"] for context in candidate["contexts"]]


def _format_context(hit: Hit, max_words: int | None) -> Record:
    title, text = cut_passage(hit.title, hit.text, max_words)
    return {"pmid": hit.pmid, "score": hit.score, "title": title, "text": join_passage(title, text)}
