"""The coroutine per abstract, with a controlled engine: what each fault does to a row."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.__main__ import conf_dir
from kailin_ray.agents.preamble import DECIDE, TASKS
from kailin_ray.config import DistillConfig, check
from kailin_ray.distill import Distiller
from kailin_ray.generation import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.retrieval.index import Hit
from kailin_ray.schema import REASONS, RECORDS

DOCUMENT = {
    "pmid": 1,
    "title": "Insulin and lung neoplasms.",
    "abstract": "Insulin had an effect on lung neoplasms in obese patients.",
    "mesh": [{"ui": "D11", "name": "Lung Neoplasms"}, {"ui": "D99", "name": "Male"}],
}
CLINICAL = "Does insulin have an effect on lung neoplasms?"
MECHANISM = "How does insulin act on lung neoplasms?"
REPLIES = {TASKS["clinical"]: CLINICAL, TASKS["mechanism"]: MECHANISM, "Answer in": "Insulin had an effect on them."}
HITS = {
    CLINICAL: [Hit(2, 0.9, "Skin", "neoplasms", ["D12"]), Hit(3, 0.8, "No", "mesh", ["D99"])],
    MECHANISM: [Hit(4, 0.9, "Insulin", "hormones", ["D51"]), Hit(5, 0.8, "Skin", "neoplasms", ["D12"])],
}


class FakeEngine:
    """Answers by what the task says; faults are injected by replacing a reply with an exception."""

    def __init__(self, replies: dict[str, Any], finish: str = "stop"):
        self.replies, self.finish = replies, finish

    async def generate(self, messages: Sequence[dict[str, str]], sampling: dict[str, Any]) -> Generation:
        await asyncio.sleep(0)
        reply = next(value for task, value in self.replies.items() if task in messages[-1]["content"])
        reply = reply(messages) if callable(reply) else reply
        if isinstance(reply, BaseException):
            raise reply
        return made(reply, self.finish)

    async def choose(self, messages: Sequence[dict[str, str]], words: Sequence[str]) -> Generation:
        assert messages[-1]["content"] == DECIDE
        return replace(made("yes", "stop"), probabilities={"yes": 0.7, "no": 0.2, "maybe": 0.1})


def made(text: str, finish: str) -> Generation:
    return Generation(
        text=text, finish_reason=finish, prompt_tokens=9, cached_tokens=4, completion_tokens=3, probabilities={}
    )


@pytest.fixture(scope="module")
def config() -> DistillConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(DistillConfig, compose("distill", ["documents=d", "index=i", "mesh=m", "out=o"]))


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(config: DistillConfig, toy_mesh: MeshHierarchy) -> Run:
    def record(document: dict[str, Any], engine: Any = None, hits: dict[str, list[Hit]] = HITS) -> dict[str, Any]:
        asked: list[tuple[int, int | None]] = []

        async def search(question: str, k: int, exclude: int | None) -> list[Hit]:
            asked.append((k, exclude))
            return hits[question]

        distiller = Distiller(config, engine or FakeEngine(REPLIES), search, toy_mesh)
        row = asyncio.run(distiller.record(document))
        pa.Table.from_pylist([row], RECORDS)  # every record fits the schema
        assert (row["status"] == "ok") == (row["reason"] is None)
        assert row["reason"] is None or row["reason"] in REASONS
        assert set(asked) <= {(4, document["pmid"])}
        return row

    return record


def test_an_abstract_walks_through_all_agents(run: Run) -> None:
    row = run(DOCUMENT)
    assert row["status"] == "ok"
    assert [c["question"] for c in row["candidates"]] == [CLINICAL, MECHANISM]
    # D11 with D12: lin = ln(10/3) / ln(10), without counts; the context without a placed descriptor has no score.
    # D11 with D51: 0.
    near = math.log(10 / 3) / math.log(10)
    assert [c["mesh_score"] for c in row["candidates"]] == pytest.approx([near, near / 2])
    assert (row["preferred"], row["preferred_by"]) == (0, "rule")
    assert row["margin"] == pytest.approx(near / 2)
    assert row["contexts_text"] == ["Skin neoplasms", "No mesh"]
    assert row["decision"] == {"word": "yes", "yes": 0.7, "no": 0.2, "maybe": 0.1}
    assert [u["agent"] for u in row["usage"]] == ["general", "biomedical", "answer", "decision"]


def test_a_question_that_is_no_yes_no_question_gets_no_decision(run: Run) -> None:
    hits = {CLINICAL: HITS[MECHANISM], MECHANISM: HITS[CLINICAL]}
    row = run(DOCUMENT, hits=hits)
    assert (row["preferred"], row.get("decision")) == (1, None)


def test_a_lone_question_is_answered_and_makes_no_preference(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES | {TASKS["mechanism"]: "I cannot say."}))
    assert (row["status"], len(row["candidates"])) == ("ok", 1)
    assert (row["preferred_by"], row["margin"]) == ("only", None)


def test_agents_that_agree_leave_nothing_to_prefer(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES | {TASKS["mechanism"]: CLINICAL}))
    assert (row["status"], len(row["candidates"]), row["preferred_by"]) == ("ok", 2, "only")


@pytest.mark.parametrize(
    ("document", "replies", "hits", "status", "reason", "detail"),
    [
        ({"abstract": ""}, {}, HITS, "rejected", "no_abstract", ""),
        ({"mesh": []}, {}, HITS, "rejected", "no_mesh", "0 MeSH headings"),
        ({"mesh": [{"ui": "D99"}]}, {}, HITS, "rejected", "no_mesh", "1 MeSH"),
        ({}, dict.fromkeys(TASKS.values(), "Hm."), HITS, "rejected", "no_valid_question", "not_one_question"),
        ({}, {}, {CLINICAL: [], MECHANISM: []}, "rejected", "no_contexts", "general: no_contexts"),
        ({}, {}, {CLINICAL: HITS[CLINICAL], MECHANISM: HITS[CLINICAL]}, "rejected", "no_preference", "0.52"),
        ({}, {"Answer in": ""}, HITS, "rejected", "answer_empty", ""),
        ({}, {"Answer in": CLINICAL}, HITS, "rejected", "answer_copies_question", "insulin"),
        ({}, {TASKS["clinical"]: PromptTooLongError("9 fit")}, HITS, "rejected", "abstract_too_long", "9 fit"),
        ({}, {"Answer in": PromptTooLongError("9 fit")}, HITS, "rejected", "abstract_too_long", "9 fit"),
        ({}, {TASKS["clinical"]: RuntimeError("odd")}, HITS, "failed", "agent_error", "RuntimeError: odd"),
    ],
)
def test_what_goes_wrong_is_recorded_with_its_reason(
    run: Run, document: dict, replies: dict, hits: dict, status: str, reason: str, detail: str
) -> None:
    row = run(DOCUMENT | document, FakeEngine(REPLIES | replies), hits)
    assert (row["status"], row["reason"]) == (status, reason)
    assert detail in (row["detail"] or "")


def test_a_truncated_question_is_not_used(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES, finish="length"))
    assert row["reason"] == "no_valid_question"
    assert row["detail"].count("truncated") == 2
    assert len(row["usage"]) == 2  # what it cost is counted all the same


def test_a_prompt_that_is_too_long_loses_its_last_contexts_first(run: Run) -> None:
    def answer(messages: Sequence[dict[str, str]]) -> str | PromptTooLongError:
        long = "[2]" in messages[-1]["content"]
        return PromptTooLongError("too long") if long else "Insulin had an effect on them."

    row = run(DOCUMENT, FakeEngine(REPLIES | {"Answer in": answer}))
    assert (row["status"], row["contexts_text"]) == ("ok", ["Skin neoplasms"])


def test_a_dead_engine_is_no_row_s_fault(run: Run) -> None:
    with pytest.raises(EngineDeadError):
        run(DOCUMENT, FakeEngine({task: EngineDeadError("gone") for task in REPLIES}))
