"""Folders that earlier commits wrote: read, published, reported, replayed, gone on with.

ca469ee is before manifests had versions, 6c57b83 the last commit whose records do not have ``shown``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from kailin_ray.config import DistillConfig, ReplayConfig
from kailin_ray.corpus.documents import Documents
from kailin_ray.dataset.folder import Dataset
from kailin_ray.dataset.records import load_pmids, records
from kailin_ray.dataset.run import Run
from kailin_ray.distill.identity import prompts
from kailin_ray.distill.replay import replay
from kailin_ray.engines.adapters import Adapter
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.search.index import PassageIndex
from tests.conftest import MESH, Command
from tests.support.folders_of_before import BEFORE, BEFORE_SHOWN, copy_folders
from tests.support.told_engine import told_engine


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A copy of them whose model and encoder lie where this machine has them."""
    return copy_folders(tmp_path / "before")


def test_every_kind_is_opened() -> None:
    corpus, documents = (Documents.open(BEFORE / name).manifest for name in ("corpus", "documents"))
    assert (corpus.maker, corpus.num_documents) == ("ingest", 24)
    assert (documents.maker, documents.num_documents) == ("select", 24)
    index = Index.open(BEFORE / "index")
    assert (index.manifest.num_passages, index.manifest.dimension) == (20, 384)
    assert index.manifest.made_from.documents == documents.id
    run = Run.open(BEFORE / "run").manifest
    assert run.num_by_status == {"ok": 9, "rejected": 1, "failed": 0}
    assert run.documents.id == documents.id
    dataset = Dataset.open(BEFORE / "dataset")
    assert dataset.num_rows == {"triples": 9, "sft": 9, "preference": 4, "pretrain": 9, "rejected": 1}
    assert Adapter.open(BEFORE / "adapter").manifest.task == "dpo"


def test_an_index_is_searched() -> None:
    index = Index.open(BEFORE / "index")
    passages = PassageIndex(index)
    row = np.array([3])
    (hits,) = passages.search(passages._store.vectors(row).astype(np.float32), 1, [None])
    assert hits[0].pmid == passages._store.pmids(row)[0]


def read_rows(dataset: Path, config: str) -> dict[int, dict[str, Any]]:
    return {
        row["pmid"]: row for file in (dataset / config).glob("*.parquet") for row in pq.read_table(file).to_pylist()
    }


@pytest.mark.parametrize("before", [BEFORE, BEFORE_SHOWN], ids=lambda path: path.name)
def test_a_run_is_published_with_what_it_says_and_nothing_else(
    kailin_here: Command, before: Path, tmp_path: Path
) -> None:
    folders = copy_folders(tmp_path / "before", before)
    done = kailin_here("publish", f"run={folders / 'run'}", f"out={folders / 'again'}")
    assert done.returncode == 0, done.stderr
    for config in ("preference", "rejected"):
        again, old = read_rows(folders / "again", config), read_rows(before / "dataset", config)
        assert again.keys() == old.keys()
        assert [{name: again[pmid][name] for name in row} for pmid, row in old.items()] == list(old.values())
    triples, old = read_rows(folders / "again", "triples"), read_rows(before / "dataset", "triples")
    assert triples.keys() == old.keys()
    for pmid, row in triples.items():
        was = old[pmid]
        assert all(row[name] == was[name] for name in was.keys() & row.keys() - {"contexts"})
        source, *contexts = row["contexts"]
        # That version always showed the source; it did not record where the titles of contexts end.
        assert source == {
            "pmid": pmid, "title": was["title"], "text": was["abstract"], "score": None, "is_source": True
        }  # fmt: skip
        assert [passage["text"] for passage in contexts] == was["contexts"]
        assert [passage["pmid"] for passage in contexts] == was["context_pmids"]
        assert {passage["title"] for passage in contexts} == {None}
    for config in ("sft", "pretrain"):
        assert read_rows(folders / "again", config).keys() == triples.keys()
    sentence = f"The answers of {len(triples)} abstracts were recorded by an earlier version"
    assert sentence in (folders / "again" / "README.md").read_text()
    shown = kailin_here("report", f"run={folders / 'run'}", "examples=1")
    assert f"shown       {len(triples)} accepted records are of an earlier version" in shown.stdout
    assert f"  ok       {len(triples):>8}" in shown.stdout


@pytest.mark.parametrize("before", [BEFORE, BEFORE_SHOWN], ids=lambda path: path.name)
def test_a_run_is_replayed(ray_here: Callable[[], None], kailin_here: Command, before: Path, tmp_path: Path) -> None:
    ray_here()
    folders = copy_folders(tmp_path / "before", before)
    run = Run.open(folders / "run")
    keys = [f"documents={folders / 'documents'}", f"index={folders / 'index'}", f"mesh={MESH}"]
    old = rows_of(run.path)
    reason = next(iter(run.manifest.num_by_reason))
    with told_engine(tmp_path / "told"):
        result = replay(ReplayConfig(run=run.path, reason=reason, overrides=tuple(keys)))
    new = rows_of(run.path)
    assert new.keys() == old.keys()
    redone = {pmid for pmid, row in old.items() if row["reason"] == reason}
    assert len(redone) == result.num_rows > 0
    for pmid, row in new.items():
        if pmid not in redone:
            assert row == old[pmid]
        elif row["status"] == "ok":
            assert row["shown"][0]["is_source"]
    done = kailin_here("publish", f"run={run.path}", f"out={folders / 'again'}")
    assert done.returncode == 0, done.stderr
    num_old = sum(row["status"] == "ok" and pmid not in redone for pmid, row in new.items())
    card = (folders / "again" / "README.md").read_text()
    assert f"The answers of {num_old} abstracts were recorded by an earlier version" in card


def rows_of(path: Path) -> dict[int, dict[str, Any]]:
    return {row["pmid"]: row for batch in records(path).to_batches() for row in batch.to_pylist()}


def test_a_status_is_shown(kailin_here: Command, folders: Path) -> None:
    state = kailin_here("status", f"run={folders / 'run'}", "json=true")
    assert json.loads(state.stdout)["done"] == 10


def test_a_run_is_gone_on_with(kailin: Command, folders: Path) -> None:
    done = kailin(
        "distill", f"documents={folders / 'documents'}", f"index={folders / 'index'}", f"mesh={MESH}",
        f"out={folders / 'run'}", "limit=12", "retrieval=brief",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 of 12 abstracts to distil" in done.stdout
    run = Run.open(folders / "run")
    assert (run.manifest.num_documents, run.manifest.num_resumed, run.manifest.sessions) == (12, 10, 2)
    assert set(load_pmids(BEFORE / "run" / "records")) < set(load_pmids(run.records))


def test_the_prompts_of_the_defaults_are_those_of_before(config: DistillConfig) -> None:
    for before in (BEFORE, BEFORE_SHOWN):
        assert json.loads((before / "run" / "run.json").read_text())["inputs"]["prompts"] == prompts(config)
