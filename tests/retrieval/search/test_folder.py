import pickle
from pathlib import Path

import pytest

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.manifests import write_manifest
from kailin_ray.retrieval.search.folder import Index, Recall, ShardFolder, Structure
from tests.support.manifests import documents_manifest, index_manifest


def test_an_index_opens_as_what_was_written_and_travels(tmp_path: Path) -> None:
    recall = Recall(num_queries=9, recall_at_4=0.98, recall_at_4_ci95=0.01, recall_at_10=0.97, recall_at_10_ci95=0.02)
    search = Structure(kind="hnsw", made_for=9, ef_search=16, num_candidates=32, target_recall_at_4=0.97, recall=recall)
    manifest = index_manifest(search=search, shards=(ShardFolder(name="shards/00000", rows=9),))
    write_manifest(tmp_path, manifest)
    index = Index.open(tmp_path)
    assert index == Index(tmp_path, manifest)
    assert pickle.loads(pickle.dumps(index)) == index
    assert index.shards() == [(tmp_path / "shards/00000", 9)]


def test_an_index_of_before_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, index_manifest())
    before = read_json(tmp_path / "manifest.json")
    del before["format_version"]
    write_json(tmp_path / "manifest.json", before | {"search": {"kind": "exact"}})
    assert Index.open(tmp_path).manifest == index_manifest()


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, documents_manifest())
    with pytest.raises(ConfigError, match="index: .* holds documents, not index"):
        Index.open(tmp_path)
    write_manifest(tmp_path, index_manifest())
    write_json(tmp_path / "manifest.json", read_json(tmp_path / "manifest.json") | {"format_version": 2})
    with pytest.raises(ConfigError, match="old: .* is of format version 2; this kailin_ray reads up to 1"):
        Index.open(tmp_path, "old")
