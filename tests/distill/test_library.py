"""``distill`` called as a library, with an engine that answers at once: what it opens, returns and says."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any
from unittest.mock import patch

import pytest
import ray

from kailin_ray.config import DistillConfig, PublishConfig, ReportConfig, load
from kailin_ray.dataset.folder import Dataset
from kailin_ray.dataset.publish import publish
from kailin_ray.dataset.summary import format_examples, format_summary, report
from kailin_ray.distill import pipeline
from kailin_ray.distill.run import RunFailedError, RunResult, Start, run
from kailin_ray.distill.status import status
from kailin_ray.engines.adapters import Base
from kailin_ray.errors import ConfigError
from kailin_ray.io import manifests
from kailin_ray.io.files import sha256
from kailin_ray.retrieval.search.folder import Index
from tests.conftest import ENCODER, MESH, MODEL, ROOT
from tests.distill.test_pipeline import FakeEngine
from tests.support.distil_with_a_fake_engine import TwoPassages
from tests.support.trained import trained

MADE = ROOT / "tests" / "data" / "ca469ee"
LIMIT = 4


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> DistillConfig:
    """A small run with an adapter; its index is one of before whose encoder lies here."""
    folder = tmp_path_factory.mktemp("library")
    copytree(MADE / "index", folder / "index")
    index = Index.open(folder / "index")
    encoder = index.manifest.config["encoder"] | {"path": str(ENCODER)}
    settings = index.manifest.config | {"encoder": encoder}
    manifests.write_manifest(index.path, replace(index.manifest, config=settings))
    trained(folder / "adapter", base=Base(name=MODEL.name, identity=sha256(MODEL)))
    keys = [
        f"documents={MADE / 'documents'}", f"index={folder / 'index'}", f"mesh={MESH}", f"out={folder / 'run'}",
        f"limit={LIMIT}", f"model.path={MODEL}", "retrieval=brief", "evaluation.method=rule", "cluster.num_engines=1",
        f"model.general.adapter={folder / 'adapter'}", "model.general.examples=false",
    ]  # fmt: skip
    return load(DistillConfig, "distill", keys)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Inside the block runs have engines that answer at once; how often each folder's manifest is read here."""
    read, distill = Path.read_text, pipeline.distill
    reads: Counter[str] = Counter()

    def counted(path: Path, *arguments: Any, **options: Any) -> str:
        if path.name == manifests.NAME:
            reads[path.parent.name] += 1
        return read(path, *arguments, **options)

    def with_fakes(*arguments: Any, **options: Any) -> None:
        retriever = ray.remote(num_cpus=0)(TwoPassages).remote()
        distill(*arguments, lambda _: FakeEngine(Path(tempfile.mkstemp()[1])), [retriever], **options)

    with patch.object(Path, "read_text", counted), patch.object(pipeline, "distill", with_fakes):
        yield reads


@pytest.fixture(scope="module")
def opened(ray_here: Callable[[], None], asked: DistillConfig) -> tuple[RunResult, list[Start], Counter[str]]:
    """The run's result, what was said when it began, and how often each manifest was read."""
    ray_here()
    starts: list[Start] = []
    with counting() as reads:
        return run(asked, starts.append), starts, reads


def test_a_run_opens_each_manifest_once(opened: tuple[RunResult, list[Start], Counter[str]]) -> None:
    assert opened[2] == {"documents": 1, "index": 1, "adapter": 1}


def test_a_run_from_the_records_of_another_opens_each_manifest_once(
    asked: DistillConfig, opened: tuple[RunResult, list[Start], Counter[str]]
) -> None:
    with counting() as reads:
        made = run(replace(asked, out=asked.out.with_name("again"), from_run=asked.out, stages=("answer",)))
    assert made.num_distilled == LIMIT
    assert reads == {"documents": 1, "index": 1, "run": 1}


def test_a_run_returns_what_it_made_and_logs_with_time_and_level(
    asked: DistillConfig, opened: tuple[RunResult, list[Start], Counter[str]]
) -> None:
    result, (start,), _ = opened
    assert (start.num_left, start.num_documents, start.num_dropped) == (LIMIT, LIMIT, 0)
    assert f"{LIMIT} of {LIMIT} abstracts to distil; logs in {asked.out}/logs" in start.lines()[0]
    assert (result.was_complete, result.num_distilled, result.run.manifest.num_documents) == (False, LIMIT, LIMIT)
    log = (asked.out / "logs" / "driver.log").read_text()
    assert f" INFO kailin_ray.distill.run: {start.lines()[0]}" in log
    before = status(asked.out)
    assert (before.state, before.done) == ("finished", LIMIT)


def test_the_same_call_again_finds_it_complete(
    asked: DistillConfig, opened: tuple[RunResult, list[Start], Counter[str]]
) -> None:
    starts: list[Start] = []
    again = run(asked, starts.append)
    assert (again.was_complete, again.num_distilled, starts) == (True, 0, [])
    assert again.run == opened[0].run


def test_too_many_failed_rows_are_an_error_with_the_run(
    asked: DistillConfig, opened: tuple[RunResult, list[Start], Counter[str]]
) -> None:
    made = opened[0].run
    failed = replace(made.manifest, num_by_status={"ok": 0, "rejected": 0, "failed": LIMIT})
    manifests.write_manifest(made.path, failed)
    try:
        with pytest.raises(RunFailedError, match=f"{LIMIT} of {LIMIT} rows failed, more than max_failed_fraction="):
            run(asked)
    finally:
        manifests.write_manifest(made.path, made.manifest)


def test_its_records_are_reported_and_published(
    opened: tuple[RunResult, list[Start], Counter[str]], tmp_path: Path
) -> None:
    made = opened[0].run
    found = report(ReportConfig(run=made.path, examples=1, summary=True))
    assert format_summary(found.run.manifest).startswith(f"{LIMIT} abstracts\n")
    assert format_examples(found.examples).count("question  ") == len(found.examples)
    config = PublishConfig(
        run=made.path,
        out=tmp_path / "dataset",
        format="parquet",
        sft="messages",
        judge_min_margin=0.0,
        benchmarks=(),
        dedup_questions=None,
        balance=None,
    )
    result = publish(config)
    assert Dataset.open(tmp_path / "dataset") == result.dataset
    assert result.num_rows["triples"] == made.manifest.num_by_status["ok"]
    assert result.dataset.manifest.run is not None
    assert result.dataset.manifest.run.checksum == manifests.manifest_checksum(made.path)
    with pytest.raises(ConfigError, match="holds dataset, not run"):
        report(ReportConfig(run=tmp_path / "dataset", examples=1, summary=True))


def test_a_dataset_without_a_manifest_is_read_from_its_card() -> None:
    dataset = Dataset.open(MADE / "dataset")
    assert dataset.manifest.run is None
    assert dataset.num_rows == {"triples": 9, "sft": 9, "preference": 4, "pretrain": 9, "rejected": 1}
    assert [file.name for file in dataset.files("preference", "test")] == ["test-00000.parquet"]


def test_a_dataset_of_a_later_version_or_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / manifests.NAME).write_text('{"kind": "dataset", "format_version": 2}')
    with pytest.raises(ConfigError, match="format version 2"):
        Dataset.open(tmp_path, "data.path")
    with pytest.raises(ConfigError, match=r"data.path: .* holds run, not dataset"):
        Dataset.open(MADE / "run", "data.path")
    (tmp_path / manifests.NAME).unlink()
    (tmp_path / "README.md").write_text("---\nlanguage: en\n---\n# Something else\n")
    with pytest.raises(ConfigError, match="is not a dataset's folder"):
        Dataset.open(tmp_path)


def test_contexts_of_an_updated_index_are_mixed_with_earlier_ones_only_if_accepted(
    asked: DistillConfig, opened: tuple[RunResult, list[Start], Counter[str]], tmp_path: Path
) -> None:
    copytree(asked.index, tmp_path / "index")
    config = replace(asked, index=tmp_path / "index", out=tmp_path / "run", limit=2)

    def update() -> str:
        index = Index.open(config.index)
        last = index.manifest.updates[-1]
        manifests.write_manifest(index.path, replace(index.manifest, updates=(*index.manifest.updates, last)))
        return manifests.manifest_checksum(index.path)[:16]

    with counting():
        made = run(config).run
        assert [version["updates"] for version in made.manifest.index.versions] == [1]
        second = update()
        assert run(config).was_complete  # nothing to retrieve, so nothing to refuse
        records = sorted(path.read_bytes() for path in (made.path / "records").iterdir())
        with pytest.raises(ConfigError, match=r"index: .* is at update 2, but records of .* \(update 1\); accept_upd"):
            run(replace(config, limit=4))
        assert sorted(path.read_bytes() for path in (made.path / "records").iterdir()) == records
        answers = run(replace(config, out=tmp_path / "answers", from_run=config.out, stages=("answer",)))
        assert [version["updates"] for version in answers.run.manifest.index.versions] == [1]
        result = run(replace(config, limit=4, accept_updated_index=True))
        assert result.num_distilled == 2
        versions = result.run.manifest.index.versions
        assert [(version["updates"], version["manifest"] == second) for version in versions] == [(1, False), (2, True)]
        assert "contexts    from 2 versions of the index (its updates 1, 2)" in format_summary(result.run.manifest)
        assert run(replace(config, limit=4)).was_complete
