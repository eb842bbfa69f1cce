"""A run's records to a Hugging Face dataset folder: one config a use, and a card.

``triples`` (default), ``sft`` (prompt, completion), ``preference`` (prompt, chosen, rejected, and who preferred by
what margin), ``judge`` (prompt, completion A or B: what trains the judge), ``pretrain`` (text), ``rejected`` (what was
not accepted), ``removed`` (documents that were left out before). Prompts and sides of ``preference`` and ``judge`` are
messages, exactly TRL's conversational format; abstracts that are held out are in their test splits.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.agents import evaluation, preamble
from kailin_ray.agents.preamble import TASKS, ask
from kailin_ray.card import card
from kailin_ray.config import ConfigError, PublishConfig
from kailin_ray.corpus.benchmarks import Benchmarks
from kailin_ray.files import atomic_folder, read_json, read_manifest
from kailin_ray.held_out import held_out
from kailin_ray.leaks import find_leaks, load_benchmarks
from kailin_ray.records import record_batches
from kailin_ray.schema import LEAKS, OK, REJECTED
from kailin_ray.storage import open_parquet, parse_folder

ROWS_AT_ONCE = 1_000
ROWS_PER_FILE = 200_000

Record = dict[str, Any]

_CALL = ("agent", "prompt_hash", "finish_reason", "output")
_SCORES = ("mesh_score", "judge_probability")
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMAS = {
    "triples": pa.schema(
        [
            ("pmid", pa.int64()),
            ("title", pa.string()),
            ("abstract", pa.string()),
            ("question", pa.string()),
            ("contexts", pa.list_(pa.string())),
            ("context_pmids", pa.list_(pa.int64())),
            ("answer", pa.string()),
            ("decision", pa.string()),
            ("agent", pa.string()),
            ("preferred_by", pa.string()),
            ("mesh_score", pa.float64()),
            ("margin", pa.float64()),
            ("mesh", pa.list_(pa.string())),
            ("year", pa.int16()),
        ]
    ),
    "sft": pa.schema([("prompt", pa.string()), ("completion", pa.string())]),
    "preference": pa.schema(
        [
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            ("margin", pa.float64()),
            ("preferred_by", pa.string()),
            *((f"{score}_{side}", pa.float64()) for score in _SCORES for side in ("chosen", "rejected")),
            ("pmid", pa.int64()),
        ]
    ),
    "judge": pa.schema(
        [("prompt", _MESSAGES), ("completion", _MESSAGES), ("margin", pa.float64()), ("pmid", pa.int64())]
    ),
    "pretrain": pa.schema([("text", pa.string())]),
    "rejected": pa.schema(
        [
            ("pmid", pa.int64()),
            ("title", pa.string()),
            ("status", pa.string()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("questions", pa.list_(pa.string())),
            ("answer", pa.string()),
            ("calls", pa.list_(pa.struct([(name, pa.string()) for name in _CALL]))),
        ]
    ),
    "removed": pa.schema([("pmid", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]),
}


def triple(record: Record) -> Record:
    """Question, contexts and answer of an accepted record, with where they come from."""
    chosen = record["candidates"][record["preferred"]]
    shown = len(record["contexts_text"])
    return {
        **{name: record[name] for name in ("pmid", "title", "abstract", "answer", "preferred_by", "margin", "year")},
        "question": chosen["question"],
        "contexts": record["contexts_text"],
        "context_pmids": [context["pmid"] for context in chosen["contexts"]][:shown],
        "decision": record["decision"]["word"] if record["decision"] else None,
        "agent": chosen["agent"],
        "mesh_score": chosen["mesh_score"],
        "mesh": [heading["name"] for heading in record["mesh"]],
    }


def sft(record: Record) -> Record:
    """Prompt and completion as plain text. The prompt holds the source abstract: the answer was given with it."""
    row = triple(record)
    evidence = "\n".join(f"[{n}] {text}" for n, text in enumerate(row["contexts"], start=1))
    prompt = f"{preamble.abstract_text(record)}\n\n{evidence}\n\nQuestion: {row['question']}\nAnswer:"
    return {"prompt": prompt, "completion": f" {row['answer']}"}


def preference(record: Record) -> Record | None:
    """The preferred question and the other one, for the same abstract; None where nothing was compared."""
    if record["preferred_by"] == "only" or record["margin"] is None:
        return None
    sides = {
        "chosen": record["candidates"][record["preferred"]],
        "rejected": record["candidates"][1 - record["preferred"]],
    }
    return {
        "prompt": preamble.prompt(record, TASKS["any"], examples=False),
        **{side: [ask("assistant", candidate["question"])] for side, candidate in sides.items()},
        **{name: record[name] for name in ("margin", "preferred_by", "pmid")},
        **{f"{score}_{side}": candidate[score] for score in _SCORES for side, candidate in sides.items()},
    }


def judge(record: Record, min_margin: float) -> list[Record]:
    """The rule's preference as two examples for the judge, the candidates in either order; none under ``min_margin``.

    The rule's own scores count, whoever preferred, and whatever became of the answer.
    """
    candidates = record["candidates"] or []
    if len({candidate["question"] for candidate in candidates}) < 2:
        return []
    verdict = evaluation.prefer([candidate["mesh_score"] for candidate in candidates], min_margin, "rule")
    if verdict.preferred is None:
        return []
    shown = [(one["question"], [context["text"] for context in one["contexts"]]) for one in candidates]
    return [
        {
            "prompt": evaluation.pairwise_messages(record, shown[first], shown[1 - first], examples=False),
            "completion": [ask("assistant", preamble.SIDES[first != verdict.preferred])],
            "margin": verdict.margin,
            "pmid": record["pmid"],
        }
        for first in (0, 1)
    ]


def pretrain(record: Record) -> Record:
    """The paper's first-person text: read the paper, looked up the contexts, pondered the question."""
    row = triple(record)
    looked_up = "\n".join(row["contexts"])
    text = (
        f"Having read the paper {row['title']}: {row['abstract']}\n\nhaving looked up\n{looked_up}\n\n"
        f"having pondered {row['question']}"
    )
    return {"text": text}


def rejected(record: Record) -> Record:
    """A record that was not accepted: where and why it ended, and what the models wrote, word for word."""
    return {
        **{name: record[name] for name in ("pmid", "title", "status", "stage", "reason", "detail", "answer")},
        "questions": [candidate["question"] for candidate in record["candidates"] or []],
        "calls": [{name: call[name] for name in _CALL} for call in record["usage"]],
    }


ACCEPTED: dict[str, Callable[[Record], Record | None]] = {
    "triples": triple,
    "sft": sft,
    "preference": preference,
    "pretrain": pretrain,
}


HELD_OUT = ("preference", "judge")
"""Configs that train the agents themselves: what they learned is measured on abstracts that are in their test split."""


def publish(config: PublishConfig) -> dict[str, int]:
    """Write the dataset folder; return the rows of each config. A config without rows is left out: it could not load.

    Raises ``ConfigError`` if the run is not complete or ``out`` exists.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    manifest = read_manifest(config.run, "run", "run", "distill")
    benchmarks = load_benchmarks(config.benchmarks, manifest["documents"].get("benchmarks", {}))
    with atomic_folder(config.out.absolute()) as folder:
        writers = {(name, "train"): _Writer(folder / name, "train", schema) for name, schema in SCHEMAS.items()}
        writers |= {(name, "test"): _Writer(folder / name, "test", SCHEMAS[name]) for name in HELD_OUT}
        samples: list[Record] = []
        leaks: Counter[str] = Counter()
        for rows in _made(config, benchmarks, leaks):
            for key, made in rows.items():
                writers[key].write(made)
            samples += rows["triples", "train"][: 3 - len(samples)]
        for removed in _removed(manifest):
            writers["removed", "train"].write(removed)
        counts: dict[str, dict[str, int]] = {name: {} for name in SCHEMAS}
        for (name, split), writer in writers.items():
            counts[name][split] = writer.close()
        checked = [] if benchmarks is None else benchmarks.files.tolist()
        card(manifest, counts, samples, checked, leaks).save(folder / "README.md")
    return {name: sum(splits.values()) for name, splits in counts.items()}


def _made(
    config: PublishConfig, benchmarks: Benchmarks | None, num_leaks: Counter[str]
) -> Iterator[dict[tuple[str, str], list[Record]]]:
    """Batch by batch, the rows of each config and split; a row with a benchmark's text counts as rejected.

    ``num_leaks``: accepted rows that have one are counted there, by reason.
    """
    for batch in record_batches(config.run, ROWS_AT_ONCE):
        rows = batch.to_pylist()
        leaks = [] if benchmarks is None else find_leaks(rows, benchmarks)
        for row, leak in zip(rows, leaks, strict=False):
            if leak:
                stage, match = leak
                if row["status"] == OK:
                    num_leaks[match.reason] += 1
                row |= {"status": REJECTED, "stage": stage, "reason": match.reason, "detail": str(match)}
        accepted = [row for row in rows if row["status"] == OK]
        made = {(name, "train"): [row for row in map(make, accepted) if row] for name, make in ACCEPTED.items()}
        clean = [row for row in rows if row["reason"] not in LEAKS]
        made["judge", "train"] = [example for row in clean for example in judge(row, config.judge_min_margin)]
        for name in HELD_OUT:
            every = made[name, "train"]
            made[name, "train"] = [row for row in every if not held_out(row["pmid"])]
            made[name, "test"] = [row for row in every if held_out(row["pmid"])]
        yield made | {("rejected", "train"): [rejected(row) for row in rows if row["status"] != OK]}


def _removed(manifest: dict[str, Any]) -> Iterator[list[Record]]:
    """What was left out of the documents before the run, part by part, but for what a sample left out.

    None where the documents are no longer where the run read them.
    """
    folder = parse_folder(manifest["config"]["documents"])
    note = folder / "manifest.json"
    if not note.exists() or read_json(note).get("id") != manifest["documents"]["id"]:
        return
    for part in sorted((folder / "removed").glob("part-*.parquet")):
        with open_parquet(part) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield [row for row in batch.to_pylist() if row["reason"] != "not_sampled"]


class _Writer:
    """Parquet shards of one split of a config, in row groups of a useful size; no file where there is no row."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema):
        self._folder, self._split, self._schema = folder, split, schema
        self._waiting: list[Record] = []
        self._total = 0
        self._file: pq.ParquetWriter | None = None

    def write(self, rows: list[Record]) -> None:
        self._waiting += rows
        if len(self._waiting) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> int:
        if self._waiting:
            self._flush()
        if self._file is not None:
            self._file.close()
        return self._total

    def _flush(self) -> None:
        if self._file is None:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"{self._split}-{self._total // ROWS_PER_FILE:05}.parquet"
            self._file = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._file.write_table(pa.Table.from_pylist(self._waiting, self._schema))
        before, self._total = self._total, self._total + len(self._waiting)
        self._waiting = []
        if before // ROWS_PER_FILE != self._total // ROWS_PER_FILE:
            self._file.close()
            self._file = None
