"""The coroutine per abstract, with a controlled engine: what each fault does to a row."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from kailin_ray.agents.prompts import DECIDE, TASKS
from kailin_ray.config import DistillConfig, Judge
from kailin_ray.dataset.rows import rejected, sft, triple
from kailin_ray.distill.actor import format_verdict
from kailin_ray.distill.distiller import RERANKED, Distiller
from kailin_ray.engines.interface import EngineDeadError, Generation, PromptTooLongError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.stages import RULE, make_stages
from kailin_ray.retrieval.search.index import Hit
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

    def __init__(self, replies: dict[str, Any], finish: str = "stop", judge: Callable[[str], Any] | None = None):
        self.adapters: list[str | None] = []
        self.replies, self.finish, self.judge = replies, finish, judge or (lambda task: RuntimeError("no judge"))

    async def generate(
        self, messages: Sequence[dict[str, str]], sampling: dict[str, Any], adapter: str | None = None
    ) -> Generation:
        self.adapters.append(adapter)
        await asyncio.sleep(0)
        reply = next(value for task, value in self.replies.items() if task in messages[-1]["content"])
        reply = reply(messages) if callable(reply) else reply
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, Generation):
            return reply
        return made(reply, self.finish)

    async def choose(
        self, messages: Sequence[dict[str, str]], words: Sequence[str], adapter: str | None = None
    ) -> Generation:
        self.adapters.append(adapter)
        task = messages[-1]["content"]
        if task != DECIDE:
            first = self.judge(task)
            if isinstance(first, BaseException):
                raise first
            return replace(made(words[0], "stop"), probabilities=dict(zip(words, (first, 1 - first), strict=True)))
        return replace(made("yes", "stop"), probabilities={"yes": 0.7, "no": 0.2, "maybe": 0.1})


def made(text: str, finish: str) -> Generation:
    return Generation(
        text=text, finish_reason=finish, prompt_tokens=9, cached_tokens=4, completion_tokens=3, probabilities={}
    )


def as_stored(row: dict[str, Any]) -> dict[str, Any]:
    return pa.Table.from_pylist([row], RECORDS).to_pylist()[0]


def shown(row: dict[str, Any]) -> list[str]:
    """The titles of the passages that the answer agent was shown."""
    return [passage["title"] for passage in row["shown"]]


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(config: DistillConfig, toy_mesh: MeshHierarchy) -> Run:
    def record(
        document: dict[str, Any],
        engine: Any = None,
        hits: dict[str, list[Hit]] = HITS,
        max_unseen_numbers: int | None = None,
        **evaluation: Any,
    ) -> dict[str, Any]:
        asked: list[tuple[int, int | None]] = []

        async def search(question: str, k: int, exclude: int | None) -> list[Hit]:
            asked.append((k, exclude))
            return hits[question]

        settings = replace(config.evaluation, **evaluation)
        changed = replace(
            config, evaluation=settings, answer=replace(config.answer, max_unseen_numbers=max_unseen_numbers)
        )
        engine = engine or FakeEngine(REPLIES)
        whole = make_stages(changed)[0].steps
        row = asyncio.run(Distiller(changed, whole, engine, search, toy_mesh).record(document))
        for cut in range(1, len(whole)):
            # The same in two stages, with Arrow between them.
            if whole[cut] == RULE or not isinstance(engine, FakeEngine):
                continue
            staged = asyncio.run(Distiller(changed, whole[:cut], engine, search, toy_mesh).record(document))
            between = pa.Table.from_pylist([staged], RECORDS).to_pylist()[0]
            assert (staged.get("status") is None) or staged["reason"] == row["reason"]
            last = asyncio.run(Distiller(changed, whole[cut:], engine, search, toy_mesh).record(between))
            # A call that raises keeps the other agent's from being counted, or comes before it.
            apart = {"usage": None} if row["reason"] in ("agent_error", "abstract_too_long") else {}
            assert as_stored(last) | apart == as_stored(row) | apart
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
    assert shown(row) == ["Insulin and lung neoplasms.", "Skin", "No"]
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
        (
            {},
            {"Answer in": "No. Insulin had none."},
            HITS,
            "rejected",
            "answer_contradicts_decision",
            "decision yes: No.",
        ),
        ({}, {"Answer in": "Insulin grows faster at a higher pH."}, HITS, "rejected", "answer_copies_example", "pH"),
        (
            {},
            {"Answer in": "Skin neoplasms of old age."},
            {CLINICAL: [Hit(2, 0.9, "Skin", "neoplasms of old age", ["D12"])], MECHANISM: HITS[MECHANISM]},
            "rejected",
            "answer_copies_context",
            "Skin",
        ),
        ({}, {"Answer in": DOCUMENT["title"]}, HITS, "rejected", "answer_copies_context", "Insulin and"),
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


def test_numbers_that_no_passage_shown_has_are_listed_and_rejected_by_option(run: Run) -> None:
    document = DOCUMENT | {"abstract": "Insulin had an effect on lung neoplasms in 12 obese patients."}
    hits = HITS | {CLINICAL: [Hit(2, 0.9, "Skin", "of thirty percent", ["D12"]), Hit(3, 0.8, "No", "mesh", ["D99"])]}
    said = {"Answer in": "Insulin had an effect in 12 patients, 30% of all, after 4 or 5 days."}
    row = run(document, FakeEngine(REPLIES | said), hits)
    assert (row["status"], row["unseen_numbers"]) == ("ok", ["4", "5"])
    assert triple(row | {"year": 1999})["unseen_numbers"] == ["4", "5"]
    assert run(document)["unseen_numbers"] == []
    assert run(document, max_unseen_numbers=2, engine=FakeEngine(REPLIES | said), hits=hits)["status"] == "ok"
    row = run(document, max_unseen_numbers=1, engine=FakeEngine(REPLIES | said), hits=hits)
    assert (row["reason"], row["unseen_numbers"]) == ("answer_unseen_numbers", ["4", "5"])
    assert row["detail"] == "2, 1 allowed: 4, 5"


def test_an_answer_with_a_reservation_may_be_a_maybe(run: Run) -> None:
    class Undecided(FakeEngine):
        async def choose(self, *asked: Any) -> Generation:
            return replace(await super().choose(*asked), text="maybe")

    row = run(DOCUMENT, Undecided(REPLIES | {"Answer in": "Yes, insulin may have an effect on them."}))
    assert (row["status"], row["decision"]["word"]) == ("ok", "maybe")
    row = run(DOCUMENT, Undecided(REPLIES | {"Answer in": "Yes. Insulin had an effect on them."}))
    assert (row["reason"], row["decision"]["word"]) == ("answer_contradicts_decision", "maybe")


def test_the_source_s_own_sentence_is_an_answer(run: Run) -> None:
    said = {"Answer in": DOCUMENT["abstract"]}
    hits = HITS | {CLINICAL: [Hit(1, 0.9, DOCUMENT["title"], DOCUMENT["abstract"], ["D11"]), *HITS[CLINICAL]]}
    assert run(DOCUMENT, FakeEngine(REPLIES | said), hits)["status"] == "ok"


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
    assert (row["status"], shown(row)) == ("ok", ["Insulin and lung neoplasms.", "Skin"])


PAIRWISE = Judge(mode="pairwise", min_margin=0.0)


def pairwise(of_clinical: tuple[float, float]) -> Callable[[str], float]:
    """A judge that gives the clinical question these probabilities where it is shown first, and where second."""

    def judge(task: str) -> float:
        shown_first = f"A: {CLINICAL}" in task
        assert ("Skin neoplasms" in task) and ("Insulin hormones" in task)  # it sees the contexts of both
        return of_clinical[0] if shown_first else 1 - of_clinical[1]

    return judge


def test_the_pairwise_judge_is_asked_in_both_orders_and_the_mean_decides(run: Run) -> None:
    # It likes what is shown first, but the mechanism question more.
    row = run(DOCUMENT, FakeEngine(REPLIES, judge=pairwise((0.6, 0.1))), method="judge", judge=PAIRWISE)
    assert (row["status"], row["preferred"], row["preferred_by"]) == ("ok", 1, "judge")
    assert row["judge_orders"] == pytest.approx([0.6, 0.1])
    assert [c["judge_probability"] for c in row["candidates"]] == pytest.approx([0.35, 0.65])
    assert row["margin"] == pytest.approx(0.3)
    # The rule's scores are there too, for the agreement.
    assert all(c["mesh_score"] > 0 for c in row["candidates"])
    assert [u["agent"] for u in row["usage"]] == ["general", "biomedical", "judge", "judge", "answer"]


def test_the_pointwise_judge_sees_each_candidate_alone(run: Run) -> None:
    def judge(task: str) -> float:
        assert (CLINICAL in task) != (MECHANISM in task)
        return 0.9 if CLINICAL in task else 0.4

    row = run(DOCUMENT, FakeEngine(REPLIES, judge=judge), method="judge")  # the default form
    assert (row["preferred"], row["preferred_by"], row.get("judge_orders")) == (0, "judge", None)
    assert [c["judge_probability"] for c in row["candidates"]] == [0.9, 0.4]
    assert row["margin"] == pytest.approx(0.5)


def test_the_judge_abstains_under_its_margin(run: Run) -> None:
    strict = replace(PAIRWISE, min_margin=0.4)
    row = run(DOCUMENT, FakeEngine(REPLIES, judge=pairwise((0.6, 0.1))), method="judge", judge=strict)
    assert (row["status"], row["reason"], row["preferred"]) == ("rejected", "no_preference", None)
    assert "judge_probability [0.35, 0.65]" in row["detail"]


def test_rule_then_judge_asks_only_where_the_rule_abstains(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES), method="rule_then_judge", judge=PAIRWISE)  # a judge would raise
    assert (row["status"], row["preferred_by"]) == ("ok", "rule")
    assert all(c["judge_probability"] is None for c in row["candidates"])
    engine = FakeEngine(REPLIES, judge=pairwise((0.6, 0.1)))
    row = run(DOCUMENT, engine, method="rule_then_judge", min_margin=0.9, judge=PAIRWISE)
    assert (row["preferred"], row["preferred_by"], row["margin"]) == (1, "judge", pytest.approx(0.3))


def test_a_judge_needs_no_mesh_headings(run: Run) -> None:
    for by in ("judge", "rule_then_judge"):
        row = run(DOCUMENT | {"mesh": []}, FakeEngine(REPLIES, judge=pairwise((0.9, 0.9))), method=by, judge=PAIRWISE)
        assert (row["status"], row["preferred_by"]) == ("ok", "judge")
        assert [c["mesh_score"] for c in row["candidates"]] == [None, None]


def test_a_lone_candidate_is_not_judged(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES | {TASKS["mechanism"]: "I cannot say."}), method="judge")
    assert (row["status"], row["preferred_by"]) == ("ok", "only")


def test_a_judge_s_prompt_that_is_too_long_loses_its_last_contexts_first(run: Run) -> None:
    judge = pairwise((0.9, 0.8))

    def short(task: str) -> Any:
        return PromptTooLongError("too long") if "[2]" in task else judge(task)

    row = run(DOCUMENT, FakeEngine(REPLIES, judge=short), method="judge", judge=PAIRWISE)
    assert (row["status"], row["preferred"]) == ("ok", 0)
    assert len(shown(row)) == 3  # the answer has room for both
    row = run(
        DOCUMENT, FakeEngine(REPLIES, judge=lambda task: PromptTooLongError("9 fit")), method="judge", judge=PAIRWISE
    )
    assert (row["status"], row["reason"]) == ("rejected", "abstract_too_long")


def test_a_verdict_s_line_for_the_log_shows_both_orders(run: Run) -> None:
    row = run(DOCUMENT, FakeEngine(REPLIES, judge=pairwise((0.6, 0.1))), method="judge", judge=PAIRWISE)
    assert format_verdict(row) == (
        "judge: PMID 1: P(general) shown first 0.600, shown second 0.100; general 0.350, biomedical 0.650; "
        "prefers biomedical by 0.300"
    )
    assert format_verdict(run(DOCUMENT)) is None


def test_each_agent_asks_with_its_own_adapter(config: DistillConfig, toy_mesh: MeshHierarchy) -> None:
    agents = ("general", "biomedical", "judge", "answer")
    adapted = {name: replace(getattr(config.model, name), adapter=f"lora/{name}") for name in agents}
    by = replace(config.evaluation, method="judge", judge=PAIRWISE)
    changed = replace(config, model=replace(config.model, **adapted), evaluation=by)

    async def search(question: str, k: int, exclude: int | None) -> list[Hit]:
        return HITS[question]

    engine: Any = FakeEngine(REPLIES, judge=pairwise((0.9, 0.8)))
    steps = make_stages(changed)[0].steps
    row = asyncio.run(Distiller(changed, steps, engine, search, toy_mesh).record(DOCUMENT))
    asked = [call["agent"] for call in row["usage"]]
    assert asked == ["general", "biomedical", "judge", "judge", "answer", "decision"]
    assert engine.adapters == [f"lora/{'answer' if agent == 'decision' else agent}" for agent in asked]


def test_a_dead_engine_is_no_row_s_fault(run: Run) -> None:
    with pytest.raises(EngineDeadError):
        run(DOCUMENT, FakeEngine({task: EngineDeadError("gone") for task in REPLIES}))


@pytest.mark.parametrize(("weight", "kept"), [(0.0, [6, 2]), (100.0, [2, 6])])
def test_mesh_similarity_moves_contexts_where_it_weighs(
    config: DistillConfig, toy_mesh: MeshHierarchy, weight: float, kept: list[int]
) -> None:
    # Nearest first: a hormone, a neoplasm (as the source is), and one that says nothing of MeSH.
    hits = [Hit(6, 0.9, "T", "A", ["D51"]), Hit(2, 0.8, "T", "A", ["D12"]), Hit(3, 0.7, "T", "A", ["D99"])]
    asked: list[int] = []

    async def search(_: str, k: int, __: int | None) -> list[Hit]:
        asked.append(k)
        return hits[:k]

    changed = replace(config, retrieval=replace(config.retrieval, mesh_weight=weight, top_k=2))
    steps = make_stages(changed)[0].steps
    row = asyncio.run(Distiller(changed, steps, FakeEngine(REPLIES), search, toy_mesh).record(DOCUMENT))
    assert set(asked) == {RERANKED if weight else 2}
    for candidate in row["candidates"]:
        assert [context["pmid"] for context in candidate["contexts"]] == kept


THOUGHT = "The abstract says that insulin had an effect."


def test_reasoning_stands_in_a_column_of_its_own(run: Run) -> None:
    replies = {task: replace(made(text, "stop"), reasoning=THOUGHT) for task, text in REPLIES.items()}
    row = run(DOCUMENT, FakeEngine(replies))
    assert row["status"] == "ok"
    assert row["reasoning"] == [{"agent": agent, "text": THOUGHT} for agent in ("general", "biomedical", "answer")]
    assert row["answer"] == REPLIES["Answer in"]
    published = triple(as_stored(row))
    assert (published["answer"], published["reasoning"]) == (row["answer"], THOUGHT)
    assert THOUGHT not in str(sft(as_stored(row)))


def test_an_answer_that_never_comes_is_rejected_and_the_reasoning_kept(run: Run) -> None:
    cut = replace(made("", "length"), reasoning=THOUGHT)
    row = run(DOCUMENT, FakeEngine(REPLIES | {"Answer in": cut}))
    assert (row["status"], row["reason"]) == ("rejected", "answer_truncated")
    assert row["detail"] == f"only reasoning, in 3 tokens: ... {THOUGHT}"
    assert rejected(as_stored(row))["reasoning"] == [{"agent": "answer", "text": THOUGHT}]
    row = run(DOCUMENT, FakeEngine(REPLIES | {"Answer in": replace(cut, finish_reason="stop")}))
    assert row["reason"] == "answer_empty"
    row = run(DOCUMENT, FakeEngine(REPLIES | {TASKS["clinical"]: replace(cut, finish_reason="stop")}))
    assert row["detail"].startswith("general: empty: 'only reasoning, in 3 tokens")


def test_special_tokens_that_nobody_understands_reject(run: Run) -> None:
    answer = replace(made("Insulin had [TOOL_CALLS] an effect.", "stop"), special_tokens=("[TOOL_CALLS]",))
    row = run(DOCUMENT, FakeEngine(REPLIES | {"Answer in": answer}))
    assert (row["status"], row["reason"]) == ("rejected", "answer_malformed")
    row = run(DOCUMENT, FakeEngine(REPLIES | {TASKS["clinical"]: replace(answer, text=CLINICAL)}))
    assert row["detail"].startswith("general: markup: ")
