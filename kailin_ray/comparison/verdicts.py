"""What the judge is asked about an old and a new question, and what it said, as columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kailin_ray.comparison.pairs import KINDS, NONE, Asked
from kailin_ray.comparison.statistics import Values
from kailin_ray.planning.stages import QUESTION_AGENTS

Keys = npt.NDArray[np.int64]
"""A pair of questions as one number: the PMID, whose the old question is, whose the new one. The preferred questions of
an abstract are often one agent's in both runs; such a pair is asked about once."""
KEYS_PER_PMID = len(QUESTION_AGENTS) ** 2

VERDICTS = pa.schema(
    [
        ("key", pa.int64()),
        ("old", pa.float64()),
        ("new", pa.float64()),
        ("orders", pa.list_(pa.float64())),
        ("fault", pa.string()),
    ]
)
"""``old``, ``new``: the questions' probabilities; null where the judge could not be asked, and ``fault`` says why.
``orders``: of a pairwise judge, the old question's where it was shown first, and where second."""


@dataclass(frozen=True)
class Judged:
    """What the judge said of the questions of one kind, of n abstracts."""

    pairwise: bool
    """The judge saw both questions at once, so their probabilities add up to 1."""
    old: Values
    """(n,) probability of the old question, NaN where nothing was asked, or answered; and so ``new``."""
    new: Values
    same: npt.NDArray[np.bool_]
    """(n,) old and new question are the same: a tie, nothing was asked."""
    orders: Values
    """(m, 2) see ``VERDICTS``."""
    faults: list[str]


def pair_keys(pmids: Keys, old: npt.NDArray[np.int8], new: npt.NDArray[np.int8]) -> Keys:
    """(n,) keys of pairs by who asked, places in ``QUESTION_AGENTS``; -1 where either has no question."""
    number = len(QUESTION_AGENTS)
    keys = (pmids * number + old) * number + new
    return np.where((old == NONE) | (new == NONE), -1, keys)


def agents_of(key: int) -> tuple[int, str, str]:
    """The PMID, and who asked the old and the new question."""
    rest, new = divmod(key, len(QUESTION_AGENTS))
    pmid, old = divmod(rest, len(QUESTION_AGENTS))
    return pmid, QUESTION_AGENTS[old], QUESTION_AGENTS[new]


def pairs(old: Asked, new: Asked, kind: str) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """(n,) keys of a kind's pairs, -1 where there is none, and which of them are one question twice."""
    keys = pair_keys(old.pmids, old.agents(kind), new.agents(kind))
    same = pc.fill_null(pc.equal(old.questions(kind), new.questions(kind)), False)
    return keys, same.to_numpy(zero_copy_only=False)


def list_pairs_to_judge(old: Asked, new: Asked) -> Keys:
    """The keys of all pairs that the judge is to be asked about, sorted, each once."""
    found = [keys[(keys >= 0) & ~same] for keys, same in (pairs(old, new, kind) for kind in KINDS)]
    return np.unique(np.concatenate(found))


def read_verdicts(folder: Path) -> pa.Table:
    """``VERDICTS`` in a folder, each key once, sorted by it."""
    files = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([VERDICTS.empty_table(), *(pq.read_table(file, schema=VERDICTS) for file in files)])
    _, first = np.unique(table["key"].to_numpy(), return_index=True)
    return table.take(first)


def by_kind(verdicts: pa.Table, old: Asked, new: Asked, pairwise: bool) -> dict[str, Judged]:
    """The verdicts, sorted by key, as columns of each kind."""
    known = verdicts["key"].to_numpy()
    found = {}
    for kind in KINDS:
        keys, same = pairs(old, new, kind)
        at = np.searchsorted(known, keys)
        there = (keys >= 0) & ~same & (known[np.minimum(at, len(known) - 1)] == keys) if len(known) else same & False
        mine = verdicts.take(pa.array(at, mask=~there))
        orders = mine["orders"].drop_null().combine_chunks().flatten().to_numpy().reshape(-1, 2)
        faults = mine["fault"].drop_null().to_pylist()
        found[kind] = Judged(pairwise, mine["old"].to_numpy(), mine["new"].to_numpy(), same, orders, faults)
    return found
