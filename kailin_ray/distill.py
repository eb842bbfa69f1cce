"""One abstract's way through all its agents, and the actor that hosts the engine they share.

One row is one abstract and one coroutine: ask (both question agents) → retrieve → evaluate → answer. Many coroutines
are in flight on one engine; its continuous batching mixes their calls, and its prefix cache finds the abstract again.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.agents.preamble import DECISIONS
from kailin_ray.config import DistillConfig, QuestionAgent
from kailin_ray.generation import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.index import Hit
from kailin_ray.schema import FAILED, OK, RECORDS, REJECTED

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
        if len(self.mesh.placed(source)) == 0:
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
        # Two agents that ask the same question leave nothing to prefer.
        distinct = {one.question: one for one in reversed(candidates)}
        scores = [one.mesh_score for one in candidates] if len(distinct) > 1 else [candidates[0].mesh_score]
        verdict = evaluation.mesh_rule(scores, self.config.evaluation.min_margin)
        row.columns |= {"preferred": verdict.preferred, "preferred_by": verdict.by, "margin": verdict.margin}
        if verdict.preferred is None:
            raise RejectedRowError("no_preference", f"MeSH scores {scores}")
        await self._answer(row, candidates[verdict.preferred])

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
        rule = self.config.evaluation
        scores = self.mesh.score([source] * len(hits), [hit.mesh for hit in hits], rule.measure, rule.aggregate)
        return Candidate(name, asked.text, hits, evaluation.candidate_score(scores.tolist()))

    async def _answer(self, row: "_Row", preferred: Candidate) -> None:
        asked, agent = preferred.question, self.config.model.answer
        contexts = [_shown(hit, self.config.retrieval.max_context_words) for hit in preferred.hits]
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
        "contexts": [{"pmid": hit.pmid, "score": hit.score} for hit in one.hits],
        "mesh_score": one.mesh_score,
        "judge_probability": None,
    }


def _shown(hit: Hit, max_words: int | None) -> str:
    words = f"{hit.title} {hit.text}".split()
    return " ".join(words[:max_words]) + (" …" if max_words and len(words) > max_words else "")


class Progress:
    """Actor: what the engine actors did so far; the driver reads it to show it."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._starts = 0
        self._engines: list[dict[str, float]] = []

    def engine_starts(self) -> None:
        """An engine is about to start, for the first time or after a death."""
        self._starts += 1

    def engine_ready(self, start_seconds: float) -> None:
        """An engine can serve."""
        self._engines.append({"ready": time.time(), "seconds": start_seconds})

    def row_done(self, status: str) -> None:
        """A row has its record."""
        self._rows[status] = self._rows.get(status, 0) + 1

    def snapshot(self) -> dict[str, Any]:
        """Rows by status, engine starts begun, and of those that came up when and after how many seconds."""
        return {"rows": dict(self._rows), "starts": self._starts, "engines": list(self._engines)}


class DistillActor:
    """Ray Data actor: hosts one engine; a block of documents in, the block of their records out."""

    def __init__(self, config: DistillConfig, mesh: Any, retriever: Any, progress: Any, log: str):
        """Start the engine. ``mesh`` is a reference: its arrays are read where they lie in shared memory."""
        _send_output_to(Path(log))
        # Here and not above: the driver, which only names this class, needs no vLLM.
        from kailin_ray.engine import Engine

        started = time.monotonic()
        progress.engine_starts.remote()
        engine = Engine(config.model.path, config.model.revision, config.model.engine)

        async def search(text: str, k: int, exclude: int | None) -> list[Hit]:
            found: list[Hit] = await retriever.search.remote(text, k, exclude)
            return found

        ray.get(retriever.ready.remote())
        self._distiller = Distiller(config, engine, search, ray.get(mesh))
        self._progress = progress
        progress.engine_ready.remote(time.monotonic() - started)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Work on a block's rows at the same time; a dead engine ends this actor, and Ray replaces it."""
        try:
            records = await asyncio.gather(*(self._record(row) for row in batch.to_pylist()))
        except EngineDeadError:
            os._exit(1)
        yield pa.Table.from_pylist(records, RECORDS)

    async def _record(self, document: Document) -> dict[str, Any]:
        record = await self._distiller.record(document)
        self._progress.row_done.remote(record["status"])
        return record


def _send_output_to(log: Path) -> None:
    """Append this process's output, and its children's (vLLM's), to a file: the terminal stays readable."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
