"""Read what two runs asked about the same abstracts, as columns, and nothing else of their records."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.dataset.records import load_pmids, record_files
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.io.pmids import PMIDS, among
from kailin_ray.io.storage import open_parquet
from kailin_ray.planning.stages import QUESTION_AGENTS
from kailin_ray.schema import OK

PREFERRED = "preferred"
KINDS = (PREFERRED, *QUESTION_AGENTS)
"""The kinds of question that are compared: the preferred question, and each agent's own."""
NONE = -1

ASKED = pa.schema(
    [
        ("pmid", pa.int64()),
        ("ok", pa.bool_()),
        ("reason", pa.string()),
        ("preferred", pa.int8()),
        *((f"question_{agent}", pa.large_string()) for agent in QUESTION_AGENTS),
        *((f"mesh_score_{agent}", pa.float64()) for agent in QUESTION_AGENTS),
    ]
)
"""``preferred``: the agent whose question was preferred, as an index of ``QUESTION_AGENTS``; ``NONE`` if there is none.
About 200 bytes an abstract: a run of a million abstracts takes 0.2 GB."""
_READ = [
    "pmid", "status", "reason", "preferred",
    *(f"candidates.list.element.{field}" for field in ("agent", "question", "mesh_score")),
]  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """What a run asked about n abstracts, ordered by PMID."""

    table: pa.Table
    """By ``ASKED``."""

    @property
    def pmids(self) -> PMIDS:
        """(n,) sorted."""
        return self.table["pmid"].to_numpy()

    def questions(self, kind: str) -> pa.Array:
        """Return the (n,) questions of a kind of ``KINDS``, null where there is none."""
        return self._of(kind, "question")

    def mesh_scores(self, kind: str) -> npt.NDArray[np.float64]:
        """Return the (n,) scores of the same questions, NaN where there is none."""
        return self._of(kind, "mesh_score").to_numpy(zero_copy_only=False)

    def agents(self, kind: str) -> npt.NDArray[np.int8]:
        """Return the (n,) agents that asked the same questions, as indexes of ``QUESTION_AGENTS``, or ``NONE``."""
        if kind == PREFERRED:
            return self.table["preferred"].to_numpy()
        has_question = pc.is_valid(self.questions(kind)).to_numpy(zero_copy_only=False)
        return np.where(has_question, QUESTION_AGENTS.index(kind), NONE).astype(np.int8)

    def _of(self, kind: str, field: str) -> pa.Array:
        if kind != PREFERRED:
            return self.table[f"{field}_{kind}"].combine_chunks()
        who = self.table["preferred"].combine_chunks()
        who = pc.if_else(pc.equal(who, NONE), None, who)
        return pc.choose(who, *(self.table[f"{field}_{agent}"].combine_chunks() for agent in QUESTION_AGENTS))


def find_shared_pmids(old: Path, new: Path, only_held_out: bool) -> PMIDS:
    """Return the sorted PMIDs of the abstracts that two runs share, or only of those that are held out.

    Raises ``ConfigError`` with the counts if there are none.
    """
    sets = {"old": load_pmids(old / "records"), "new": load_pmids(new / "records")}
    both = np.intersect1d(sets["old"], sets["new"])
    chosen = both[_mark_held_out(both)] if only_held_out else both
    if len(chosen):
        return chosen
    counts = [
        f"{run} has {len(sets[key]):,} ({_mark_held_out(sets[key]).sum():,} held out)"
        for key, run in (("old", old), ("new", new))
    ]
    shared = f"{len(both):,} abstracts" + (
        ", of which none is held out; held_out=false compares them" if len(both) else ""
    )
    raise ConfigError(f"new: the two runs share {shared}: {', '.join(counts)}")


def _mark_held_out(pmids: PMIDS) -> npt.NDArray[np.bool_]:
    return np.fromiter(map(is_held_out, pmids.tolist()), bool, len(pmids))


def read_asked(run: Path, pmids: PMIDS) -> Asked:
    """Return what a run asked about abstracts (sorted PMIDs; the run has a record of each)."""
    batches = (_columns(batch) for batch in chosen_batches(run, pmids, _READ))
    table = pa.Table.from_batches(batches, ASKED).combine_chunks()
    return Asked(table.take(np.argsort(table["pmid"].to_numpy(), kind="stable")))


def chosen_batches(run: Path, pmids: PMIDS, columns: list[str], size: int = 2_000) -> Iterator[pa.RecordBatch]:
    """Yield columns of a run's records of abstracts (sorted PMIDs), read in batches of ``size`` rows."""
    for path in record_files(run / "records"):
        with open_parquet(path) as file:
            for batch in file.iter_batches(size, columns=columns):
                kept = batch.filter(pa.array(among(batch["pmid"].to_numpy(), pmids)))
                if len(kept):
                    yield kept


def _columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch of records by ``ASKED``."""
    candidates = batch["candidates"]
    flat, rows = candidates.flatten(), pc.list_parent_indices(candidates).to_numpy()
    agents = pc.index_in(pc.struct_field(flat, "agent"), pa.array(QUESTION_AGENTS)).to_numpy()
    columns = {"pmid": batch["pmid"], "ok": pc.equal(batch["status"], OK), "reason": batch["reason"]}
    first = np.searchsorted(rows, np.arange(len(batch)))
    preferred = batch["preferred"].fill_null(NONE).to_numpy().astype(np.int64)
    who = np.full(len(batch), NONE, np.int8)
    who[preferred != NONE] = agents[(first + preferred)[preferred != NONE]]
    columns["preferred"] = pa.array(who)
    for number, agent in enumerate(QUESTION_AGENTS):
        positions = np.full(len(batch), NONE)
        own = np.flatnonzero(agents == number)
        positions[rows[own]] = own
        indices = pa.array(positions, mask=positions == NONE)
        columns[f"question_{agent}"] = pc.struct_field(flat, "question").take(indices).cast(pa.large_string())
        columns[f"mesh_score_{agent}"] = pc.struct_field(flat, "mesh_score").take(indices)
    return pa.RecordBatch.from_arrays([columns[name] for name in ASKED.names], schema=ASKED)
