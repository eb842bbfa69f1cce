"""Runs made up by hand: complete folders, as ``distill`` leaves them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.planning.stages import QUESTION_AGENTS
from kailin_ray.schema import RECORDS

Record = dict[str, Any]
MODEL = {"name": "small", "revision": None, "adapter": None, "identity": "a"}
SETTINGS = {
    "documents": "nowhere", "evaluation": {"measure": "resnik", "aggregate": "bma", "method": "rule"}, "limit": None,
    "retrieval": {"top_k": 4},
}  # fmt: skip


OF_OLD = json.loads((Path(__file__).parents[1] / "data" / "ca469ee" / "run" / "manifest.json").read_text())
"""A run's manifest, of which those that are made up here keep what does not matter."""


def candidate(agent: str, question: str, mesh_score: float | None, contexts: Sequence[str] = ("A context.",)) -> Record:
    texts = [{"pmid": place, "score": 0.5, "text": text} for place, text in enumerate(contexts)]
    return {"agent": agent, "question": question, "contexts": texts, "mesh_score": mesh_score}


def record(
    pmid: int,
    general: tuple[str, float | None] | None = None,
    biomedical: tuple[str, float | None] | None = None,
    preferred: int | None = None,
    **more: Any,
) -> Record:
    """``preferred``: a place in the candidates that there are."""
    asked = zip(QUESTION_AGENTS, (general, biomedical), strict=True)
    made = {
        "pmid": pmid, "title": f"Title {pmid}.", "abstract": f"Abstract {pmid} on drug {pmid} in disease {pmid}.",
        "candidates": [candidate(agent, *one) for agent, one in asked if one], "preferred": preferred, "status": "ok",
    }  # fmt: skip
    return made | more


def run(folder: Path, rows: Sequence[Record], pieces: int = 2, documents: str = "d1", **settings: Any) -> Path:
    """A run's folder with its records in several files, none of them in the order of PMIDs."""
    (folder / "records").mkdir(parents=True)
    for piece in range(pieces):
        table = pa.Table.from_pylist(list(rows)[piece::pieces][::-1], RECORDS)
        pq.write_table(table, folder / "records" / f"{piece}.parquet", row_group_size=7)
    manifest = OF_OLD | {
        "index": OF_OLD["index"] | {"id": "i1"}, "documents": OF_OLD["documents"] | {"id": documents},
        "sha256": {"mesh": "m1"}, "models": dict.fromkeys((*QUESTION_AGENTS, "answer"), MODEL),
        "versions": {"kailin_ray": "0"}, "replays": [],
        "config": SETTINGS | settings,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
