import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from kailin_ray.corpus.documents import Documents, DocumentsManifest, resume_documents
from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, draw, sketch
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.manifests import write_manifest
from kailin_ray.mesh.hierarchy import MeshHierarchy
from kailin_ray.schema import MESH_HEADING
from tests.support.manifests import documents_manifest, index_manifest


def test_a_folder_opens_as_what_was_written_and_travels(tmp_path: Path) -> None:
    manifest = documents_manifest(2, bucket_bits=15, damaged=("a.xml: cut",))
    write_manifest(tmp_path, manifest)
    documents = Documents.open(tmp_path)
    assert documents == Documents(tmp_path, manifest)
    assert pickle.loads(pickle.dumps(documents)) == documents
    written = read_json(tmp_path / "manifest.json")
    assert (written["kind"], written["format_version"], written["format"]) == ("documents", 5, 5)


def test_documents_of_before_are_read(tmp_path: Path, toy_mesh: MeshHierarchy) -> None:
    update = {"parts": 1, "seconds": 6.3, "changes": {}}
    counts = {"num_documents": 24, "num_with_mesh": 24, "num_considered": 24, "num_removed": {}, "num_citations": 24}
    design = Design(size=9, seed=1, major_only=True)
    whole = sketch(
        pa.table({"pmid": [1], "year": [1978], "mesh": pa.array([[]], pa.list_(MESH_HEADING))}), toy_mesh, design
    )
    old = {"budget": 9, "seed": 1, "by": None, "period": None, "major": True, "power": 0.5, "max_share": 1.0}
    sample = balance(whole, draw(whole, design), toy_mesh, design) | {"design": old | {"min_per_stratum": 0}}
    write_json(
        tmp_path / "manifest.json",
        {
            "kind": "documents", "maker": "select", "format": 4, "id": "x", "updates": [update], **counts,
            "made_from": {
                "corpus": "c", "corpus_updates": 1, "mesh": None, "benchmarks": [], "filters": {},
                "duplicates": {"jaccard": None}, "subtree": [], "subtree_major": True,
                "sample": {"num": 9, "power": 0.5}, "tolerate_orphans": False,
            },
            "benchmarks": {}, "num_left_out": {"superseded": 0, "deleted": 0}, "num_skipped": {},
            "files": [{"name": "a.xml", "bytes": 1, "sha256": "s"}], "versions": {}, "config": {}, "sample": sample,
        },
    )  # fmt: skip
    manifest = Documents.open(tmp_path).manifest
    assert (manifest.maker, manifest.files[0].columns, manifest.updates[0].files) == ("select", None, None)
    assert manifest.made_from is not None and manifest.sample is not None
    assert (manifest.made_from.dedup_threshold, manifest.made_from.subtree_major_only) == (None, True)
    assert manifest.made_from.sample == {"size": 9, "alpha": 0.5}
    named = ("size", "stratify_by", "major_only", "alpha")
    assert [manifest.sample["design"][name] for name in named] == [9, None, True, 0.5]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format_version": 6}, "is of format version 6; this kailin_ray reads up to 5: upgrade it"),
        ({"format_version": 3}, "was made by an earlier version of kailin_ray; make it again"),
        ({"kind": "run"}, "holds run, not documents"),
        ({"updates": 1}, "is damaged: updates: "),
    ],
)
def test_what_is_no_folder_of_documents_is_refused(tmp_path: Path, changes: dict[str, object], fault: str) -> None:
    write_manifest(tmp_path, documents_manifest())
    write_json(tmp_path / "manifest.json", read_json(tmp_path / "manifest.json") | changes)
    with pytest.raises(ConfigError, match=f"documents: .*{fault}"):
        Documents.open(tmp_path)


def test_documents_are_resumed_by_their_maker_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert resume_documents(out, "ingest") is None
    out.mkdir()
    assert resume_documents(out, "ingest") is None
    write_manifest(out, documents_manifest())
    found = resume_documents(out, "ingest")
    assert found
    assert isinstance(found.manifest, DocumentsManifest)
    with pytest.raises(ConfigError, match="was made by `ingest`; choose another"):
        resume_documents(out, "select")
    write_manifest(out, index_manifest())
    with pytest.raises(ConfigError, match="out: .* holds index, not documents"):
        resume_documents(out, "ingest")
    (out / "manifest.json").rename(out / "other.json")
    with pytest.raises(ConfigError, match="exists and is not a folder of documents"):
        resume_documents(out, "ingest")
