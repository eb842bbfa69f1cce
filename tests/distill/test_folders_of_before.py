"""Folders that commit ca469ee wrote, before manifests had versions: read, published, gone on with."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from kailin_ray.corpus.documents import Documents
from kailin_ray.dataset.folder import Dataset
from kailin_ray.dataset.records import load_pmids
from kailin_ray.dataset.run import Run
from kailin_ray.engines.adapters import Adapter
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.search.index import PassageIndex
from tests.conftest import MESH, Command
from tests.support.folders_of_before import BEFORE, copy_folders


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


def test_a_run_is_published_as_it_was(kailin_here: Command, folders: Path) -> None:
    done = kailin_here("publish", f"run={folders / 'run'}", f"out={folders / 'again'}")
    assert done.returncode == 0, done.stderr
    for config in ("triples", "sft", "preference", "pretrain", "rejected"):
        for before in (BEFORE / "dataset" / config).glob("*.parquet"):
            again, old = pq.read_table(folders / "again" / config / before.name), pq.read_table(before)
            assert set(again.column_names) - set(old.column_names) <= {"reasoning"}
            assert again.select(old.column_names).equals(old)
    shown = kailin_here("report", f"run={folders / 'run'}", "examples=1")
    assert "rejected        1  10 %" in shown.stdout
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
