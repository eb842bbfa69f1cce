"""Manifests of folders that tests make up."""

from typing import Any

from kailin_ray.corpus.documents import DocumentsManifest, DocumentsUpdate
from kailin_ray.retrieval.search.folder import (
    FORMAT,
    Encoding,
    IndexInputs,
    IndexManifest,
    IndexUpdate,
    Structure,
)


def documents_manifest(num_updates: int = 1, **changes: Any) -> DocumentsManifest:
    """Of documents that were ingested, with so many updates."""
    values: dict[str, Any] = {
        "maker": "ingest",
        "id": "documents",
        "updates": (DocumentsUpdate(files=1, parts=1, seconds=0.0, changes={}),) * num_updates,
        "num_documents": 1,
        "num_with_mesh": 1,
        "num_citations": 1,
        "num_left_out": {"superseded": 0, "deleted": 0},
        "num_skipped": {},
        "files": (),
        "versions": {},
        "config": {},
    }
    return DocumentsManifest(**(values | changes))


def index_manifest(**changes: Any) -> IndexManifest:
    """Of an index that is searched exactly."""
    encoding = Encoding(
        num_encoders=1, device="cpu", num_taken_over=0, num_encoded=1, abstracts_per_second_per_encoder=1.0
    )
    values: dict[str, Any] = {
        "id": "index",
        "made_from": IndexInputs(documents="documents", encoder={}, format=FORMAT),
        "documents_updates": 1,
        "limit": None,
        "structure": "auto",
        "target_recall": 0.97,
        "lexical": False,
        "benchmarks": {},
        "updates": (IndexUpdate(added=1, deleted=0, encoding=encoding, seconds=0.0),),
        "num_passages": 1,
        "dimension": 16,
        "shards": (),
        "search": Structure(kind="exact"),
        "files": {},
        "config": {},
    }
    return IndexManifest(**(values | changes))
