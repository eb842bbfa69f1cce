"""A run's records to a Hugging Face dataset folder: one config a use, and a card.

``triples`` (default), ``sft`` (prompt, completion), ``preference`` (prompt, chosen, rejected, and who preferred by
what margin), ``judge`` (prompt, completion A or B: what trains the judge), ``pretrain`` (text), ``rejected`` (what was
not accepted), ``removed`` (documents that were left out before). Prompts and sides of ``preference`` and ``judge`` are
messages, exactly TRL's conversational format; abstracts that are held out are in their test splits.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.config import PublishConfig
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.dataset.card import card
from kailin_ray.dataset.decontaminate import find_leaks, load_benchmarks
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import ACCEPTED, HELD_OUT, SCHEMAS, Record, judge, rejected
from kailin_ray.dataset.splits import held_out
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_folder, read_json, read_manifest
from kailin_ray.io.storage import open_parquet, parse_folder
from kailin_ray.schema import LEAKS, OK, REJECTED

ROWS_AT_ONCE = 1_000
ROWS_PER_FILE = 200_000


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
