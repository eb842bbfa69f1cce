"""``triples.contexts`` is what the answer agent was shown, byte for byte."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from kailin_ray.agents.prompts import DECIDE
from kailin_ray.config import DistillConfig, ReplayConfig, load
from kailin_ray.dataset.records import records
from kailin_ray.dataset.rows import sft, triple
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.distill.distiller import Distiller
from kailin_ray.distill.replay import replay
from kailin_ray.distill.run import run
from kailin_ray.engines.chat_template import prompt_ids
from kailin_ray.engines.interface import PromptTooLongError
from kailin_ray.errors import ConfigError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.stages import make_stages
from kailin_ray.retrieval.search.index import Hit
from tests.conftest import MESH, MODEL, Command
from tests.distill.test_distiller import CLINICAL, DOCUMENT, MECHANISM, REPLIES, FakeEngine, as_stored
from tests.support.folders_of_before import BEFORE_SHOWN, copy_folders
from tests.support.told_engine import told, told_engine

SETTINGS = [("source", "contexts"), ("contexts",), ("source",)]
LONG = "Neoplasms  of the\nskin were  seen in many of the patients"
HITS = {
    # The source is found too, as where retrieval.exclude_source=false.
    CLINICAL: [
        Hit(2, 0.9, "Skin [2] \u201cneoplasms\u201d.", LONG, ["D12"]),
        Hit(1, 0.8, DOCUMENT["title"], DOCUMENT["abstract"], ["D11"]),
        Hit(3, 0.7, "", "No title.", ["D99"]),
    ],
    MECHANISM: [Hit(4, 0.9, "Insulin", "hormones", ["D51"])],
}


def shown_text(triple: dict[str, Any]) -> str:
    """The text before the question, written anew from a published row: no code of the prompts is used."""
    source = [passage for passage in triple["contexts"] if passage["score"] is None]
    found = [passage for passage in triple["contexts"] if passage["score"] is not None]
    text = "".join(f"Title: {one['title']}\nAbstract: {one['text']}\n\n" for one in source)
    if found:
        text += f"Evidence from {'other ' if source else ''}abstracts:\n"
    for number, one in enumerate(found, start=1):
        text += f"[{number}] " + " ".join(part for part in (one["title"], one["text"]) if part) + "\n"
    return text + ("\n" if found else "")


class Listening(FakeEngine):
    """Keeps the messages of answers and decisions."""

    def __init__(self, replies: dict[str, Any]):
        super().__init__(replies)
        self.answers: list[list[dict[str, str]]] = []
        self.decisions: list[list[dict[str, str]]] = []

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Any:
        made = await super().generate(messages, sampling, adapter)
        if "Answer in one sentence" in messages[-1]["content"]:
            self.answers.append(list(messages))
        return made

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Any:
        assert messages[-1]["content"] == DECIDE
        self.decisions.append(list(messages))
        return await super().choose(messages, words, adapter)


def too_long_with_two(messages: Sequence[dict[str, str]]) -> Any:
    return PromptTooLongError("long") if "\n[2] " in messages[-1]["content"] else REPLIES["Answer in"]


@pytest.mark.parametrize("max_words", [None, 3, 1])
@pytest.mark.parametrize("reply", [REPLIES["Answer in"], too_long_with_two])
@pytest.mark.parametrize("shown", SETTINGS)
def test_the_prompt_of_the_answer_is_what_the_triple_says(
    config: DistillConfig, toy_mesh: MeshHierarchy, shown: tuple[str, ...], reply: Any, max_words: int | None
) -> None:
    async def search(question: str, k: int, exclude: int | None) -> list[Hit]:
        return HITS[question]

    retrieval = replace(config.retrieval, exclude_source=False, max_context_words=max_words)
    changed = replace(config, answer=replace(config.answer, shown=shown), retrieval=retrieval)
    engine: Any = Listening(REPLIES | {"Answer in": reply})
    steps = make_stages(changed)[0].steps
    row = as_stored(asyncio.run(Distiller(changed, steps, engine, search, toy_mesh).record(DOCUMENT)))
    assert row["status"] == "ok"
    made = triple(row)
    (asked,), (decided,) = engine.answers, engine.decisions
    assert asked[-1]["content"] == f"{shown_text(made)}Question: {CLINICAL}\nAnswer in one sentence."
    assert decided[: len(asked)] == asked  # the decision is made on the same passages
    # As token ids, it is in the decoded prompt of a real tokenizer.
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    assert shown_text(made) in tokenizer.decode(prompt_ids(tokenizer, asked))
    # What was not shown is not listed, and what was is, in order.
    pmids = [(passage["pmid"], passage["is_source"], passage["score"] is None) for passage in made["contexts"]]
    found = [(2, False, False), (1, True, False), (3, False, False)]
    if reply is too_long_with_two:
        found = found[:1]
    expected = [(1, True, True)] if "source" in shown else []
    assert pmids == expected + (found if "contexts" in shown else [])
    # sft says the same.
    assert sft(row)["prompt"][0]["content"].startswith(asked[-1]["content"])
    cut = row["usage"][-1]["contexts_cut"]
    assert cut == (2 if "contexts" in shown and reply is too_long_with_two else 0)


@pytest.mark.parametrize("shown", SETTINGS)
def test_a_prompt_without_room_for_one_passage_is_rejected(
    config: DistillConfig, toy_mesh: MeshHierarchy, shown: tuple[str, ...]
) -> None:
    async def search(question: str, k: int, exclude: int | None) -> list[Hit]:
        return HITS[question]

    changed = replace(config, answer=replace(config.answer, shown=shown))
    engine: Any = Listening(REPLIES | {"Answer in": PromptTooLongError("9 fit")})
    steps = make_stages(changed)[0].steps
    row = asyncio.run(Distiller(changed, steps, engine, search, toy_mesh).record(DOCUMENT))
    assert (row["status"], row["reason"], row["stage"]) == ("rejected", "abstract_too_long", "answer")


def test_what_cannot_be_shown_is_refused(kailin_here: Command, tmp_path: Path) -> None:
    folders = copy_folders(tmp_path / "before", BEFORE_SHOWN)
    keys = [f"documents={folders / 'documents'}", f"index={folders / 'index'}", f"mesh={MESH}", f"out={tmp_path}/run"]
    for shown in ("[]", "[contexts,source]", "[source,source]", "[abstract]"):
        done = kailin_here("distill", *keys, f"answer.shown={shown}")
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "answer.shown" in done.stderr
    assert (
        "allowed: [source, contexts], [contexts], [source]" in kailin_here("distill", *keys, "answer.shown=[]").stderr
    )
    done = kailin_here("distill", *keys, "answer.shown=[contexts]")
    assert done.returncode == 2
    assert "answer.shown: [contexts] shows the source abstract only if retrieval finds it" in done.stderr
    assert "retrieval.exclude_source=false" in done.stderr


def test_a_replay_publishes_what_it_showed(ray_here: Callable[[], None], kailin_here: Command, tmp_path: Path) -> None:
    """Real retrieval, records on disk; the rows of one dataset were shown different things."""
    ray_here()
    folders = copy_folders(tmp_path / "before", BEFORE_SHOWN)
    keys = [
        f"documents={folders / 'documents'}", f"index={folders / 'index'}", f"mesh={MESH}", f"out={tmp_path / 'run'}",
        "limit=12", f"model.path={MODEL}", "retrieval=brief", "evaluation.method=rule_then_judge",
        "cluster.num_engines=1",
    ]  # fmt: skip
    with told_engine(tmp_path / "first", too_short=4):
        first = run(load(DistillConfig, "distill", keys)).run
    assert first.manifest.num_by_reason["answer_too_short"] > 1
    short = {row["pmid"] for row in rows_of(first.path) if row["reason"] == "answer_too_short"}
    with told_engine(tmp_path / "second", too_short=1):
        config = ReplayConfig(run=first.path, reason="too_short", overrides=("answer.shown=[source]",))
        result = replay(config)
    assert result.run.manifest.replays[0].stages == ("answer",)
    assert result.num_rows == len(short)
    left = {row["pmid"] for row in rows_of(first.path) if row["reason"] == "answer_too_short"}
    assert left < short
    overrides = ("answer.shown=[contexts]", "retrieval.exclude_source=false")
    with pytest.raises(ConfigError, match="retrieval.exclude_source=true"):
        replay(ReplayConfig(run=first.path, reason="too_short", overrides=overrides[:1]))
    with told_engine(tmp_path / "third"):
        result = replay(ReplayConfig(run=first.path, reason="too_short", overrides=overrides))
    assert result.run.manifest.replays[1].stages == ("question", "evaluation", "answer")
    done = kailin_here("publish", f"run={first.path}", f"out={tmp_path / 'dataset'}", "benchmarks=[]")
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "dataset" / "triples").glob("*.parquet"))
    triples = [row for file in files for row in pq.read_table(file).to_pylist()]
    given = {json.dumps(messages) for note in ("first", "second", "third") for messages in told(tmp_path / note)}
    contents = {json.loads(messages)[-1]["content"] for messages in given}
    kinds = set()
    for row in triples:
        assert f"{shown_text(row)}Question: {row['question']}\nAnswer in one sentence." in contents
        listed = [passage["score"] is None for passage in row["contexts"]]
        kinds.add((listed[0], len(listed) > 1))
        expected = (True, True) if row["pmid"] not in short else (False, True) if row["pmid"] in left else (True, False)
        assert (listed[0], len(listed) > 1) == expected, row["pmid"]
    assert len(kinds) == 3
    assert {row["pmid"] for row in triples if is_held_out(row["pmid"])} == {
        row["pmid"] for file in files if file.name.startswith("test") for row in pq.read_table(file).to_pylist()
    }


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for batch in records(path).to_batches() for row in batch.to_pylist()]
