"""Convert a run's records to a Hugging Face dataset folder: a config for each use, and a card.

The configs are ``triples`` (default), ``sft`` (prompt, completion), ``preference`` (prompt, chosen, rejected, margin,
and whether rule or judge decided), ``judge`` (prompt and completion A or B, to train the judge), ``pretrain`` (text),
``rejected`` (records that were not accepted), and ``removed`` (documents that were left out before the run). Prompts,
completions, chosen and rejected are messages in TRL's conversational format. Each row has its PMID, and held-out
abstracts are in the test splits of all configs. ``formats`` has the other formats.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from kailin_ray import __version__
from kailin_ray.config import PublishConfig
from kailin_ray.corpus.documents import Documents
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.dataset.card import Samples, make_card
from kailin_ray.dataset.choice import Choice, choose_rows, leave_out
from kailin_ray.dataset.decontaminate import find_leaks, load_benchmarks
from kailin_ray.dataset.folder import CARD, Dataset, DatasetManifest, PublishedRun, Rows
from kailin_ray.dataset.formats import convert_row, describe_for_llama_factory, schemas_of
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import ACCEPTED, Record, is_of_before, judge, rejected, sft_text
from kailin_ray.dataset.run import Run, RunManifest
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.dataset.variety import VarietyCounter
from kailin_ray.dataset.writers import ROWS_AT_ONCE, JsonLinesWriter, ParquetWriter, Writer, file_pattern
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_folder, write_json
from kailin_ray.io.manifests import manifest_checksum, write_manifest
from kailin_ray.io.storage import check_access, open_parquet, parse_folder
from kailin_ray.schema import LEAKS, OK, REJECTED

SPLITS = ("train", "test")
LLAMA_FACTORY = "dataset_info.json"
"""LLaMA-Factory's description of the files, by its own name for it."""
NUM_SAMPLES = 3

RowsOf = dict[str, list[Record]]
"""Rows by config."""


@dataclass(kw_only=True)
class Tally:
    """What is counted and kept for the card while rows are written."""

    leaks: Counter[str] = field(default_factory=Counter)
    """Accepted records with text of a benchmark, by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Accepted records that ``dedup_questions`` and ``balance`` leave out, by reason."""
    variety: VarietyCounter = field(default_factory=VarietyCounter)
    num_of_before: int = 0
    """Accepted records of a version that did not record ``shown``."""
    samples: Samples = field(default_factory=Samples)


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
    if config.sft == "text" and config.format in ("sharegpt", "alpaca"):
        raise ConfigError(f"sft: text, but format={config.format} has its own form; allowed: format=parquet or jsonl")
    run = Run.open(config.run)
    benchmarks = load_benchmarks(config.benchmarks, run.manifest.documents.benchmarks)
    tally = Tally()
    with atomic_folder(config.out.absolute()) as folder:
        choice = choose_rows(config, benchmarks, folder)
        rows = _write_rows(config, run, benchmarks, choice, folder, tally)
        manifest = DatasetManifest(
            made=datetime.now(UTC).isoformat(),
            rows=rows,
            run=PublishedRun(
                name=run.path.name, checksum=manifest_checksum(run.path), documents=run.manifest.documents.id
            ),
            kailin_ray=__version__,
            benchmarks=() if benchmarks is None else tuple(benchmarks.files.tolist()),
            leaks=dict(tally.leaks),
            judge_min_margin=config.judge_min_margin,
            dedup_questions=config.dedup_questions,
            balance=config.balance,
            left_out=dict(tally.left_out),
            variety=tally.variety.counts(),
            format=config.format,
            sft=config.sft,
            num_of_before=tally.num_of_before,
        )
        if config.format in ("sharegpt", "alpaca"):
            files = {
                (name, split): file_pattern(name, split, is_parquet=False)
                for name, splits in rows.items()
                for split, count in splits.items()
                if count
            }
            write_json(folder / LLAMA_FACTORY, describe_for_llama_factory(config.format, files))
        make_card(run.manifest, manifest, tally.samples).save(folder / CARD)
        write_manifest(folder, manifest)
    dataset = Dataset(config.out, manifest)
    return PublishResult(dataset=dataset, num_rows=dataset.num_rows)


def _write_rows(
    config: PublishConfig,
    run: Run,
    benchmarks: Benchmarks | None,
    choice: Choice,
    folder: Path,
    tally: Tally,
) -> Rows:
    """Write the files of each config and split; return their numbers of rows. Fills ``tally``."""
    schemas = schemas_of(config.format, config.sft)
    kind: type[Writer] = ParquetWriter if config.format == "parquet" else JsonLinesWriter
    writers = {(name, split): kind(folder, name, split, schemas[name]) for name in schemas for split in SPLITS}
    for rows_of in _all_rows(config, run, benchmarks, choice, tally):
        published = rows_of.get("triples", [])
        tally.variety.add((row["decision"], row["agent"], row["question"]) for row in published)
        triples = tally.samples.triples
        triples += published[: NUM_SAMPLES - len(triples)]
        for name in schemas:
            rows = [convert_row(config.format, name, row) for row in rows_of.get(name, [])]
            if rows:
                tally.samples.first.setdefault(name, rows[0])
            held_out = [is_held_out(row["pmid"]) for row in rows]
            for split in SPLITS:
                is_test = split == "test"
                writers[name, split].write([row for row, held in zip(rows, held_out, strict=True) if held == is_test])
    numbers: Rows = {name: {} for name in schemas}
    for (name, split), writer in writers.items():
        numbers[name][split] = writer.close()
    return numbers


def _all_rows(
    config: PublishConfig, run: Run, benchmarks: Benchmarks | None, choice: Choice, tally: Tally
) -> Iterator[RowsOf]:
    """Yield the rows of each config, batch after batch."""
    for batch in record_batches(config.run, ROWS_AT_ONCE):
        yield _make_rows(config, batch.to_pylist(), benchmarks, choice, tally)
    for removed in _read_removed(run.manifest):
        yield {"removed": removed}


def _make_rows(
    config: PublishConfig, rows: list[Record], benchmarks: Benchmarks | None, choice: Choice, tally: Tally
) -> RowsOf:
    """Return the rows of each config for some records.

    A record with text of a benchmark, or that ``choice`` leaves out, counts as rejected.
    """
    leaks = [] if benchmarks is None else find_leaks(rows, benchmarks)
    for row, leak in zip(rows, leaks, strict=False):
        if leak:
            stage, match = leak
            if row["status"] == OK:
                tally.leaks[match.reason] += 1
            row |= {"status": REJECTED, "stage": stage, "reason": match.reason, "detail": str(match)}
    leave_out(rows, choice, tally.left_out)
    accepted = [row for row in rows if row["status"] == OK]
    tally.num_of_before += sum(map(is_of_before, accepted))
    makers = ACCEPTED | ({"sft": sft_text} if config.sft == "text" else {})
    rows_of = {name: [row for row in map(make, accepted) if row] for name, make in makers.items()}
    clean = [row for row in rows if row["reason"] not in LEAKS]
    rows_of["judge"] = [example for row in clean for example in judge(row, config.judge_min_margin)]
    return rows_of | {"rejected": [rejected(row) for row in rows if row["status"] != OK]}


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
