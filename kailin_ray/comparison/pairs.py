"""What two runs asked about the same abstracts, as columns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.held_out import held_out
from kailin_ray.records import records
from kailin_ray.schema import OK
from kailin_ray.stages import QUESTION_AGENTS

PREFERRED = "preferred"
KINDS = (PREFERRED, *QUESTION_AGENTS)
"""Whose question of an abstract is compared: the one that was preferred, or each agent's own."""
_COLUMNS = {
    "pmid": pc.field("pmid"),
    "status": pc.field("status"),
    "reason": pc.field("reason"),
    "preferred": pc.field("preferred"),
    "candidates": pc.field("candidates"),
}


@dataclass(frozen=True)
class Asked:
    """What a run asked about n abstracts, ordered by PMID."""

    pmids: npt.NDArray[np.int64]
    accepted: npt.NDArray[np.bool_]
    reasons: list[str | None]
    """Of what was not accepted."""
    questions: dict[str, list[str | None]]
    """By kind; None where there is none."""
    scores: dict[str, npt.NDArray[np.float64]]
    """By kind: the question's MeSH score, NaN where it is missing."""

    def among(self, pmids: npt.NDArray[np.int64]) -> "Asked":
        """The same of some abstracts."""
        places = np.flatnonzero(np.isin(self.pmids, pmids))
        return Asked(
            self.pmids[places],
            self.accepted[places],
            [self.reasons[at] for at in places],
            {kind: [found[at] for at in places] for kind, found in self.questions.items()},
            {kind: found[places] for kind, found in self.scores.items()},
        )


def read_asked(run: Path) -> Asked:
    """What a run asked; of its records nothing else is held."""
    kept: dict[str, list[Any]] = {"pmid": [], "ok": [], "reason": []}
    questions: dict[str, list[str | None]] = {kind: [] for kind in KINDS}
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for batch in records(run).to_batches(columns=_COLUMNS, batch_size=2_000):
        kept["pmid"] += batch["pmid"].to_pylist()
        kept["ok"] += [status == OK for status in batch["status"].to_pylist()]
        kept["reason"] += batch["reason"].to_pylist()
        for chosen, by_kind in zip(batch["preferred"].to_pylist(), _by_kind(batch), strict=True):
            if chosen is not None:
                by_kind[PREFERRED] = by_kind.pop("in order")[chosen]
            for kind in KINDS:
                question, score = by_kind.get(kind, (None, None))
                questions[kind].append(question)
                scores[kind].append(np.nan if score is None else score)
    order = np.argsort(np.array(kept["pmid"], np.int64), kind="stable")
    return Asked(
        np.array(kept["pmid"], np.int64)[order],
        np.array(kept["ok"], bool)[order],
        [kept["reason"][at] for at in order],
        {kind: [found[at] for at in order] for kind, found in questions.items()},
        {kind: np.array(found, float)[order] for kind, found in scores.items()},
    )


def _by_kind(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Of each record, question and MeSH score by agent, and ``in order`` those of all candidates."""
    column = batch["candidates"]
    fields = [pc.struct_field(column.flatten(), name).to_pylist() for name in ("agent", "question", "mesh_score")]
    every = iter(zip(*fields, strict=True))
    found = []
    for number in pc.list_value_length(column).fill_null(0).to_pylist():
        candidates = [next(every) for _ in range(number)]
        made: dict[str, Any] = {agent: (question, score) for agent, question, score in candidates}
        found.append(made | {"in order": [(question, score) for _, question, score in candidates]})
    return found


def shared(old: Asked, new: Asked, only_held_out: bool) -> tuple[Asked, Asked]:
    """Both, of the abstracts that are in both."""
    pmids = np.intersect1d(old.pmids, new.pmids)
    if only_held_out:
        pmids = pmids[[held_out(int(pmid)) for pmid in pmids]]
    return old.among(pmids), new.among(pmids)
