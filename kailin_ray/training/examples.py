"""Read training data in TRL's columns, clean it and split it. Imports neither Ray nor TRL.

=========  ==========================================================================  ===============================
task       columns                                                                     source
=========  ==========================================================================  ===============================
question   prompt, completion (messages): an abstract, a question                      BioASQ, PubMedQA, any columns
judge      prompt, completion (messages): two candidates, A or B                       ``publish``'s config judge
dpo        prompt, chosen, rejected (messages), margin: an abstract, two questions     ``publish``'s config preference
pretrain   text                                                                        ``publish``'s config pretrain
sft        prompt, completion (messages or texts): a question, an answer               ``publish``'s config sft
=========  ==========================================================================  ===============================

A row whose PMID is held out goes into the test split, whichever split it came from.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from kailin_ray.agents import question
from kailin_ray.agents.prompts import ask
from kailin_ray.config import Dpo, TrainConfig, TrlRows
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.dataset.decontaminate import load_benchmarks
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.schema import Row
from kailin_ray.training.question_sources import load_splits, read_questions

COLUMNS: dict[str, tuple[str, ...]] = {
    "question": ("prompt", "completion"),
    "judge": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "pretrain": ("text",),
    "sft": ("prompt", "completion"),
}
NOT_ACCEPTED = ("rejected", "removed")
"""Configs of ``publish`` that may not be used for training."""


@dataclass(frozen=True)
class Examples:
    """The rows to train on, the rows to measure on, and the number of rows left out by reason."""

    train: Dataset
    test: Dataset | None
    left_out: dict[str, int]


def load_examples(config: TrainConfig, cache: Path) -> Examples:
    """Return the examples of a training task. ``cache`` is a new folder, see ``load_splits``.

    Raises ``ConfigError`` if the data cannot be loaded, lack a column or hold a pair of equal sides, or if too few
    examples remain.
    """
    splits = _read_splits(config, cache)
    left_out: Counter[str] = Counter()
    columns = [*COLUMNS[config.task], *(name for name in ("margin", "pmid") if name in splits["train"].column_names)]
    missing = [name for name in COLUMNS[config.task] if name not in splits["train"].column_names]
    if missing:
        names = ", ".join(splits["train"].column_names)
        raise ConfigError(
            f"data: {_format_source(config)} has no column {missing[0]!r}, which task={config.task} needs: {names}"
        )
    splits = {name: split.select_columns(columns) for name, split in splits.items()}
    if config.task == "dpo":
        for split in splits.values():
            _check_pairs(split, _format_source(config))
        splits = {name: _pairs(split, config.dpo, left_out) for name, split in splits.items()}
    splits = {name: _without_repeats(split, left_out) for name, split in splits.items()}
    if benchmarks := load_benchmarks(config.exclude, {}):
        splits = {name: _clean(split, benchmarks, left_out) for name, split in splits.items()}
    train, test = _split_rows(splits)
    if config.limit:
        train = train.select(range(min(config.limit, len(train))))
    if len(train) < config.min_examples:
        reasons = "".join(f", {number:,} left out as {name}" for name, number in sorted(left_out.items()))
        raise ConfigError(
            f"data: {_format_source(config)} leaves {len(train):,} examples to train on, fewer than min_examples="
            f"{config.min_examples:,}{reasons}, {len(test) if test else 0:,} held out"
        )
    return Examples(train, test, dict(left_out))


def _format_source(config: TrainConfig) -> str:
    name = getattr(config.data, "name", None)
    return f"{config.data.path}{f' ({name})' if name else ''}"


def _read_splits(config: TrainConfig, cache: Path) -> dict[str, Dataset]:
    if not isinstance(config.data, TrlRows):
        if config.task != "question":
            raise ConfigError(f"data.kind: {config.data.kind} provides questions; task={config.task} needs kind: trl")
        rows = read_questions(config.data, cache)
        return {"train": Dataset.from_list([question_example(row) for row in rows])}
    if config.data.name in NOT_ACCEPTED:
        raise ConfigError(f"data.name: {config.data.name}: rows that were not accepted are not used for training")
    splits = load_splits(config.data.path, config.data.name, config.data.revision, cache)
    if "train" not in splits:
        raise ConfigError(f"data.path: {config.data.path} has no split train; there are: {', '.join(splits)}")
    return {split: splits[split] for split in ("train", "test") if split in splits}


def question_example(row: Row) -> Row:
    """Return an abstract with its question, in the form in which the question agents are asked."""
    return {
        "prompt": question.messages(row, "any", examples=False),
        "completion": [ask("assistant", row["question"])],
        "pmid": row["pmid"],
    }


def text_of(side: Any) -> str:
    """Return one side of an example, messages or plain text, as one text."""
    return side if isinstance(side, str) else "\n".join(message["content"] for message in side)


def _check_pairs(pairs: Dataset, source: str) -> None:
    for number, (chosen, rejected) in enumerate(zip(pairs["chosen"], pairs["rejected"], strict=True)):
        if text_of(chosen).strip() == text_of(rejected).strip():
            raise ConfigError(f"data: {source}: chosen equals rejected in row {number}: {text_of(chosen)[:80]!r}")


def _pairs(pairs: Dataset, dpo: Dpo, left_out: Counter[str]) -> Dataset:
    """Keep the pairs with a large enough margin, if margins are used, and with sides of similar length."""
    by_margin = bool(dpo.min_margin or dpo.weight_by_margin)
    if by_margin and "margin" not in pairs.column_names:
        raise ConfigError("dpo.min_margin, dpo.weight_by_margin: the data have no column margin")

    def why(row: Row) -> str | None:
        words = sorted(max(1, len(text_of(row[side]).split())) for side in ("chosen", "rejected"))
        if by_margin and (row["margin"] is None or row["margin"] <= 0.0 or row["margin"] < dpo.min_margin):
            return "under_min_margin"
        return "unlike_lengths" if dpo.max_length_ratio and words[1] > dpo.max_length_ratio * words[0] else None

    return _keep_rows(pairs, why, left_out)


def _without_repeats(rows: Dataset, left_out: Counter[str]) -> Dataset:
    """Keep the first of the rows with equal texts; a repeated example would be memorised."""
    seen: set[int] = set()
    sides = [name for name in ("prompt", "completion", "chosen", "rejected", "text") if name in rows.column_names]

    def why(row: Row) -> str | None:
        key = hash(tuple(text_of(row[side]) for side in sides))
        known = key in seen
        seen.add(key)
        return "duplicate" if known else None

    return _keep_rows(rows, why, left_out)


def _clean(rows: Dataset, benchmarks: Benchmarks, left_out: Counter[str]) -> Dataset:
    """Keep the rows without a benchmark's abstract or text."""
    bad = np.zeros(len(rows), bool)
    if "pmid" in rows.column_names:
        pmids = np.array([-1 if pmid is None else pmid for pmid in rows["pmid"]], np.int64)
        bad |= np.array([match is not None for match in benchmarks.find_pmids(pmids)], bool)
    left_out["benchmark_pmid"] += int(bad.sum())
    for side in ("prompt", "completion", "chosen", "rejected", "text"):
        if side in rows.column_names:
            # Only the last message of a conversation is data; our own system text and tasks are in every row.
            matches = benchmarks.find(
                [text_of(value[-1:] if isinstance(value, list) else value) for value in rows[side]]
            )
            has_match = np.array([match is not None for match in matches], bool)
            left_out["benchmark_text"] += int((has_match & ~bad).sum())
            bad |= has_match
    return rows.select(np.flatnonzero(~bad))


def _keep_rows(rows: Dataset, why: Callable[[Row], str | None], left_out: Counter[str]) -> Dataset:
    reasons = [why(row) for row in rows]
    left_out.update(reason for reason in reasons if reason)
    return rows.select([number for number, reason in enumerate(reasons) if not reason])


def _split_rows(splits: dict[str, Dataset]) -> tuple[Dataset, Dataset | None]:
    all_rows = concatenate_datasets(list(splits.values()))
    if "pmid" not in all_rows.column_names:
        return splits["train"], splits.get("test")
    held_out = np.array([pmid is not None and is_held_out(pmid) for pmid in all_rows["pmid"]], bool)
    in_test = np.concatenate([np.full(len(rows), name == "test") for name, rows in splits.items()])
    test = all_rows.select(np.flatnonzero(held_out | in_test))
    return all_rows.select(np.flatnonzero(~(held_out | in_test))), test if len(test) else None
