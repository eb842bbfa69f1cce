"""Choose which accepted rows are published: none that repeats a better row's question, and as many yes as no.

The records are read once more for each of the two. ``repeats`` says what it holds; balancing holds 32 bytes of a row.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kailin_ray.config import PublishConfig
from kailin_ray.corpus.overlap.benchmarks import Benchmarks
from kailin_ray.dataset.decontaminate import find_leaks
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.repeats import Questions, Repeats, find_repeats
from kailin_ray.dataset.rows import Record
from kailin_ray.schema import ANSWER, ASKING, OK, REJECTED

Pmids = npt.NDArray[np.int64]

ROWS_AT_ONCE = 1_000
SKETCHES = ".sketches"
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Choice:
    """The accepted rows to leave out. All PMIDs are sorted."""

    repeats: Repeats
    surplus: Pmids
    """Rows of the more common decision."""

    def find(self, pmid: int) -> tuple[str, str, str] | None:
        """Return why the row is left out: the step, a reason of ``schema.LEFT_OUT`` and a detail; None if it stays."""
        place = _find(self.repeats.pmids, pmid)
        if place is not None:
            return ASKING, "near_duplicate_question", f"of PMID {self.repeats.kept[place]}"
        if _find(self.surplus, pmid) is not None:
            return ANSWER, "surplus_decision", ""
        return None


def choose_rows(config: PublishConfig, benchmarks: Benchmarks | None, folder: Path) -> Choice:
    """Return which accepted rows of a run to leave out. ``folder`` is used for temporary files.

    Rows with text of a benchmark are not considered: they are left out anyway, and take no other row's place.
    """
    repeats = Repeats(_NONE, _NONE)
    if config.dedup_questions is not None:
        questions = (_make_questions(rows) for rows in _read_accepted(config.run, benchmarks))
        repeats = find_repeats(questions, config.dedup_questions, folder / SKETCHES)
    surplus = _NONE
    if config.balance == "decision":
        surplus = find_surplus(*_read_decisions(config.run, benchmarks, repeats.pmids))
    return Choice(repeats, surplus)


def leave_out(rows: list[Record], choice: Choice, counter: Counter[str]) -> None:
    """Turn the accepted rows that ``choice`` leaves out into rejected ones, and count them by reason."""
    for row in rows:
        found = choice.find(row["pmid"]) if row["status"] == OK else None
        if found:
            stage, reason, detail = found
            row |= {"status": REJECTED, "stage": stage, "reason": reason, "detail": detail or None}
            counter[reason] += 1


def find_surplus(yes: Pmids, no: Pmids) -> Pmids:
    """Return the sorted PMIDs to leave out so that as many remain of ``yes`` as of ``no``.

    Which ones depends on a hash of the PMID, not on the order.
    """
    more, number = (yes, len(no)) if len(yes) > len(no) else (no, len(yes))
    hashes = np.fromiter((_hash(pmid) for pmid in more.tolist()), np.uint64, len(more))
    return np.sort(more[np.lexsort((more, hashes))][number:])


def _hash(pmid: int) -> int:
    # Another text than that of `splits.is_held_out`, so that train and test keep their shares.
    return int.from_bytes(hashlib.sha256(f"balance {pmid}".encode()).digest()[:8])


def _read_accepted(run: Path, benchmarks: Benchmarks | None) -> Iterator[list[Record]]:
    for batch in record_batches(run, ROWS_AT_ONCE):
        rows = [row for row in batch.to_pylist() if row["status"] == OK]
        leaks = [None] * len(rows) if benchmarks is None else find_leaks(rows, benchmarks)
        yield [row for row, leak in zip(rows, leaks, strict=True) if not leak]


def _make_questions(rows: list[Record]) -> Questions:
    chosen = [row["candidates"][row["preferred"]] for row in rows]
    return Questions(
        np.array([row["pmid"] for row in rows], np.int64),
        np.array([candidate["mesh_score"] for candidate in chosen], np.float64),
        np.array([row["margin"] for row in rows], np.float64),
        [candidate["question"] for candidate in chosen],
    )


def _read_decisions(run: Path, benchmarks: Benchmarks | None, left_out: Pmids) -> tuple[Pmids, Pmids]:
    """Return the PMIDs of the accepted rows with decision yes, and with decision no, without those left out."""
    pmids: dict[str, list[Pmids]] = {"yes": [_NONE], "no": [_NONE]}
    for rows in _read_accepted(run, benchmarks):
        for word, found in pmids.items():
            of_word = [row["pmid"] for row in rows if row["decision"] and row["decision"]["word"] == word]
            found.append(np.array(of_word, np.int64))
    yes, no = (np.concatenate(found) for found in pmids.values())
    return yes[~np.isin(yes, left_out)], no[~np.isin(no, left_out)]


def _find(ordered: Pmids, pmid: int) -> int | None:
    place = int(np.searchsorted(ordered, pmid))
    return place if place < len(ordered) and ordered[place] == pmid else None
