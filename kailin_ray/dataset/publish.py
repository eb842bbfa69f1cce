"""Convert a run's records to a Hugging Face dataset folder: a config for each use, and a card.

The configs are ``triples`` (default), ``sft`` (prompt, completion), ``preference`` (prompt, chosen, rejected, margin,
and whether rule or judge decided), ``judge`` (prompt and completion A or B, to train the judge), ``pretrain`` (text),
``rejected`` (records that were not accepted), and ``removed`` (documents that were left out before the run). In
``preference`` and ``judge``, prompts, completions, chosen and rejected are messages in TRL's conversational format, and
held-out abstracts are in the test splits.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray import __version__
from kailin_ray.config import PublishConfig
from kailin_ray.corpus.documents import Documents
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.dataset.card import make_card
from kailin_ray.dataset.decontaminate import find_leaks, load_benchmarks
from kailin_ray.dataset.folder import CARD, Dataset, DatasetManifest, PublishedRun, Rows
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import ACCEPTED, HELD_OUT, SCHEMAS, Record, judge, rejected
from kailin_ray.dataset.run import Run, RunManifest
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_folder
from kailin_ray.io.manifests import manifest_checksum, write_manifest
from kailin_ray.io.storage import check_access, open_parquet, parse_folder
from kailin_ray.schema import LEAKS, OK, REJECTED

ROWS_AT_ONCE = 1_000
ROWS_PER_FILE = 200_000


@dataclass(frozen=True, kw_only=True)
class PublishResult:
    """The result of ``publish``."""

    dataset: Dataset
    num_rows: dict[str, int]
    """Number of rows of each config."""


def publish(config: PublishConfig) -> PublishResult:
    """Write the dataset folder. A config without rows is left out, because it could not be loaded.

    Raises ``ConfigError`` if the run is not complete or ``out`` exists.
    """
    for key, path in (("run", config.run), ("out", config.out)):
        check_access(key, path)
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    run = Run.open(config.run)
    benchmarks = load_benchmarks(config.benchmarks, run.manifest.documents.benchmarks)
    samples: list[Record] = []
    leaks: Counter[str] = Counter()
    with atomic_folder(config.out.absolute()) as folder:
        rows = _write_rows(config, run, benchmarks, folder, samples, leaks)
        manifest = DatasetManifest(
            made=datetime.now(UTC).isoformat(),
            rows=rows,
            run=PublishedRun(
                name=run.path.name, checksum=manifest_checksum(run.path), documents=run.manifest.documents.id
            ),
            kailin_ray=__version__,
            benchmarks=() if benchmarks is None else tuple(benchmarks.files.tolist()),
            leaks=dict(leaks),
            judge_min_margin=config.judge_min_margin,
        )
        make_card(run.manifest, manifest, samples).save(folder / CARD)
        write_manifest(folder, manifest)
    dataset = Dataset(config.out, manifest)
    return PublishResult(dataset=dataset, num_rows=dataset.num_rows)


def _write_rows(
    config: PublishConfig,
    run: Run,
    benchmarks: Benchmarks | None,
    folder: Path,
    samples: list[Record],
    leaks: Counter[str],
) -> Rows:
    """Write the files of each config and split; return their numbers of rows. Fills ``samples`` and ``leaks``."""
    writers = {(name, "train"): _Writer(folder / name, "train", schema) for name, schema in SCHEMAS.items()}
    writers |= {(name, "test"): _Writer(folder / name, "test", SCHEMAS[name]) for name in HELD_OUT}
    for rows_of in _make_rows(config, benchmarks, leaks):
        for key, rows in rows_of.items():
            writers[key].write(rows)
        samples += rows_of["triples", "train"][: 3 - len(samples)]
    for removed in _read_removed(run.manifest):
        writers["removed", "train"].write(removed)
    counts: Rows = {name: {} for name in SCHEMAS}
    for (name, split), writer in writers.items():
        counts[name][split] = writer.close()
    return counts


def _make_rows(
    config: PublishConfig, benchmarks: Benchmarks | None, num_leaks: Counter[str]
) -> Iterator[dict[tuple[str, str], list[Record]]]:
    """Yield, for each batch of records, the rows of each config and split.

    A record with text of a benchmark counts as rejected. If it was accepted, ``num_leaks`` counts it by reason.
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
        rows_of = {(name, "train"): [row for row in map(make, accepted) if row] for name, make in ACCEPTED.items()}
        clean = [row for row in rows if row["reason"] not in LEAKS]
        rows_of["judge", "train"] = [example for row in clean for example in judge(row, config.judge_min_margin)]
        for name in HELD_OUT:
            examples = rows_of[name, "train"]
            rows_of[name, "train"] = [row for row in examples if not is_held_out(row["pmid"])]
            rows_of[name, "test"] = [row for row in examples if is_held_out(row["pmid"])]
        yield rows_of | {("rejected", "train"): [rejected(row) for row in rows if row["status"] != OK]}


def _read_removed(run: RunManifest) -> Iterator[list[Record]]:
    """Yield, in batches, the documents that were left out before the run, except those left out by sampling.

    Yields nothing if the documents have changed or are no longer at the path where the run read them.
    """
    folder = parse_folder(run.config["documents"])
    try:
        documents = Documents.open(folder)
    except ConfigError:
        return
    if documents.manifest.id != run.documents.id:
        return
    for part in sorted((folder / "removed").glob("part-*.parquet")):
        with open_parquet(part) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                yield [row for row in batch.to_pylist() if row["reason"] != "not_sampled"]


class _Writer:
    """Writes the Parquet shards of one split of a config, in row groups of a useful size; no file without rows."""

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
