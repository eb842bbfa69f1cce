"""The pairs of old and new questions that the judge is asked about, and its verdicts, as columns."""

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
"""A pair of questions as one number, made of the PMID and the agents of the old and the new question. The preferred
questions of an abstract often come from one agent in both runs; the judge is asked about such a pair once."""
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
"""``old``, ``new``: the questions' probabilities; null if the judge could not be asked, and ``fault`` says why.
``orders``, for a pairwise judge: the old question's probability when shown first, and when shown second."""


@dataclass(frozen=True)
class Judged:
    """The judge's verdicts on the questions of one kind, of n abstracts."""

    pairwise: bool
    """Whether the judge saw both questions at once, so that their probabilities add up to 1."""
    old: Values
    """(n,) probability of the old question, NaN where there is no verdict; likewise ``new``."""
    new: Values
    same: npt.NDArray[np.bool_]
    """(n,) whether old and new question are the same: a tie, without a call to the judge."""
    orders: Values
    """(m, 2) see ``VERDICTS``."""
    faults: list[str]


def pair_keys(pmids: Keys, old: npt.NDArray[np.int8], new: npt.NDArray[np.int8]) -> Keys:
    """Return (n,) keys of pairs of agents (indexes of ``QUESTION_AGENTS``); -1 where either has no question."""
    number = len(QUESTION_AGENTS)
    keys = (pmids * number + old) * number + new
    return np.where((old == NONE) | (new == NONE), -1, keys)


def agents_of(key: int) -> tuple[int, str, str]:
    """Return the PMID, and the agents that asked the old and the new question."""
    rest, new = divmod(key, len(QUESTION_AGENTS))
    pmid, old = divmod(rest, len(QUESTION_AGENTS))
    return pmid, QUESTION_AGENTS[old], QUESTION_AGENTS[new]


def pairs(old: Asked, new: Asked, kind: str) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Return (n,) keys of a kind's pairs, -1 where there is none, and (n,) whether both questions are the same."""
    keys = pair_keys(old.pmids, old.agents(kind), new.agents(kind))
    same = pc.fill_null(pc.equal(old.questions(kind), new.questions(kind)), False)
    return keys, same.to_numpy(zero_copy_only=False)


def list_pairs_to_judge(old: Asked, new: Asked) -> Keys:
    """Return the keys of all pairs that the judge is to be asked about, sorted and unique."""
    keys_by_kind = [keys[(keys >= 0) & ~same] for keys, same in (pairs(old, new, kind) for kind in KINDS)]
    return np.unique(np.concatenate(keys_by_kind))


def read_verdicts(folder: Path) -> pa.Table:
    """Read the ``VERDICTS`` of a folder, sorted by key, each key once."""
    files = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([VERDICTS.empty_table(), *(pq.read_table(file, schema=VERDICTS) for file in files)])
    _, first = np.unique(table["key"].to_numpy(), return_index=True)
    return table.take(first)


def by_kind(verdicts: pa.Table, old: Asked, new: Asked, pairwise: bool) -> dict[str, Judged]:
    """Return the verdicts, which are sorted by key, as columns for each kind."""
    judged_keys = verdicts["key"].to_numpy()
    judged = {}
    for kind in KINDS:
        keys, same = pairs(old, new, kind)
        position = np.searchsorted(judged_keys, keys)
        has_verdict = (
            (keys >= 0) & ~same & (judged_keys[np.minimum(position, len(judged_keys) - 1)] == keys)
            if len(judged_keys)
            else same & False
        )
        rows = verdicts.take(pa.array(position, mask=~has_verdict))
        orders = rows["orders"].drop_null().combine_chunks().flatten().to_numpy().reshape(-1, 2)
        faults = rows["fault"].drop_null().to_pylist()
        judged[kind] = Judged(pairwise, rows["old"].to_numpy(), rows["new"].to_numpy(), same, orders, faults)
    return judged
