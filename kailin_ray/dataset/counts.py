"""What a run's records add up to. Columns, never rows: a run may have millions of them.

Sample::

    {"status": {"ok": 34, "rejected": 14}, "reason": {"answer_truncated": 6, ...}, "preferred_by": {"judge": 31, ...},
     "tokens": {"general": {"calls": 48, "prompt": 36433, "cached": 24064, "completion": 846, "with_contexts_cut": 0,
                            "seconds": 310.2, "seconds_not_accepted": 71.0,
                            "first_token": {"p50": 0.21, "p95": 0.9}, "queue": {"p50": 0.01, "p95": 0.4}}, ...},
     "agreement": {"rows": 40, "share": 0.55, "cohens_kappa": 0.1},
     "position_bias": {"rows": 43, "first": 0.71, "flipped": 0.6},
     "headings": {"accepted": {"D006801": 30, ...}, "rejected": {...}}}
"""

from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from kailin_ray.agents.evaluation import TIE, Agreement, PositionBias, agreement, position_bias, position_sums
from kailin_ray.dataset.records import record_files
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import OK, REJECTED

_TOKENS = ("prompt", "cached", "completion")
_Wait = Literal["queue", "first_token"]
_WAITS: tuple[_Wait, ...] = ("queue", "first_token")
_EDGES = np.geomspace(1e-3, 1e4, 141)
"""Of the histograms that percentiles are read from, in seconds: 20 to the decade, so within 6 %."""
_COLUMNS = [
    "status", "reason", "preferred_by", "usage", "judge_orders", "mesh.list.element.ui",
    "candidates.list.element.question", "candidates.list.element.mesh_score",
    "candidates.list.element.judge_probability",
]  # fmt: skip

Sums = defaultdict[str, float]
"""Of one agent's calls, by the fields of ``AgentTokens`` that add up."""


class Waits(TypedDict):
    """Percentiles of seconds."""

    p50: float
    p95: float


class AgentTokens(TypedDict):
    """What the calls of one agent took."""

    calls: int
    prompt: int
    cached: int
    completion: int
    with_contexts_cut: int
    seconds: float
    seconds_not_accepted: float
    queue: Waits
    first_token: Waits


class Headings(TypedDict):
    """Headings by UI, of the documents that were accepted and of those that were not."""

    accepted: dict[str, int]
    rejected: dict[str, int]


class RecordCounts(TypedDict):
    """What a run's records add up to; see the sample above."""

    status: dict[str, int]
    reason: dict[str, int]
    preferred_by: dict[str, int]
    tokens: dict[str, AgentTokens]
    agreement: Agreement
    position_bias: PositionBias
    headings: Headings


def count_records(run: Path) -> RecordCounts:
    """Add up the records of ``run``; see the sample above."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in ("status", "reason", "preferred_by")}
    tokens: dict[str, Sums] = {}
    waits: dict[tuple[str, _Wait], np.ndarray] = {}
    headings: dict[str, Counter[str]] = {"accepted": Counter(), "rejected": Counter()}
    table = np.zeros((2, 2), dtype=np.int64)
    positions = np.zeros(3)
    for file in record_files(run / "records"):
        for batch in open_parquet(file).iter_batches(columns=_COLUMNS):
            for name, counter in counted.items():
                counter.update(_values(batch[name]))
            _add_usage(tokens, waits, batch)
            for name, status in (("accepted", OK), ("rejected", REJECTED)):
                chosen = batch["mesh"].filter(pc.equal(batch["status"], status))
                headings[name].update(_values(pc.struct_field(pc.list_flatten(chosen), "ui")))
            table += _leanings(batch["candidates"])
            asked = batch["judge_orders"].drop_null()
            positions += position_sums(asked.flatten().to_numpy().reshape(-1, 2))
    return {
        "status": dict(counted["status"].most_common()),
        "reason": dict(counted["reason"].most_common()),
        "preferred_by": dict(counted["preferred_by"].most_common()),
        "tokens": {
            name: _format_counts(sums, {wait: _percentiles(waits[name, wait]) for wait in _WAITS})
            for name, sums in sorted(tokens.items())
        },
        "agreement": agreement(table),
        "position_bias": position_bias(positions),
        "headings": {"accepted": dict(headings["accepted"]), "rejected": dict(headings["rejected"])},
    }


def _format_counts(sums: Sums, waits: dict[_Wait, Waits]) -> AgentTokens:
    return {
        "calls": int(sums["calls"]),
        "prompt": int(sums["prompt"]),
        "cached": int(sums["cached"]),
        "completion": int(sums["completion"]),
        "with_contexts_cut": int(sums["with_contexts_cut"]),
        "seconds": sums["seconds"],
        "seconds_not_accepted": sums["seconds_not_accepted"],
        "queue": waits["queue"],
        "first_token": waits["first_token"],
    }


def _values(column: pa.Array) -> dict[str, int]:
    found = column.drop_null().value_counts()
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _add_usage(tokens: dict[str, Sums], waits: dict[tuple[str, _Wait], np.ndarray], batch: pa.RecordBatch) -> None:
    """Add a batch's calls to each agent's sums and to its histograms of waiting."""
    calls = pa.Table.from_struct_array(pc.list_flatten(batch["usage"]))
    accepted = pc.equal(batch["status"], OK).take(pc.list_parent_indices(batch["usage"]))
    for agent in calls["agent"].unique().to_pylist():
        mine = pc.equal(calls["agent"], agent)
        used = calls.filter(mine)
        lost = used["seconds"].filter(pc.invert(accepted.filter(mine.combine_chunks())))
        sums = tokens.setdefault(agent, defaultdict(float))
        sums["calls"] += used.num_rows
        for name in _TOKENS:
            sums[name] += pc.sum(used[f"{name}_tokens"]).as_py()
        sums["with_contexts_cut"] += pc.sum(pc.greater(used["contexts_cut"], 0)).as_py()
        sums["seconds"] += pc.sum(used["seconds"]).as_py()
        sums["seconds_not_accepted"] += pc.sum(lost, min_count=0).as_py()
        for wait in _WAITS:
            seconds = np.clip(used[f"{wait}_seconds"].to_numpy(), _EDGES[0], _EDGES[-1])
            waits[agent, wait] = waits.get((agent, wait), 0) + np.histogram(seconds, _EDGES)[0]


def _percentiles(histogram: np.ndarray) -> Waits:
    """The median and the 95th percentile, each as the middle of its bin."""
    middle = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    below = np.cumsum(histogram) / histogram.sum()
    half, most = (round(float(middle[np.searchsorted(below, share)]), 4) for share in (0.5, 0.95))
    return {"p50": half, "p95": most}


def _leanings(candidates: pa.ListArray) -> np.ndarray:
    """(2, 2) rows by the candidate that the rule scores higher and the one that the judge does, where both do.

    Whatever the margin: under ``rule_then_judge`` the judge is asked where the rule's margin was too small.
    """
    pairs = candidates.filter(pc.equal(pc.list_value_length(candidates), 2)).flatten()
    mesh, judge = (
        pc.struct_field(pairs, name).to_numpy(zero_copy_only=False).astype(float).reshape(-1, 2)
        for name in ("mesh_score", "judge_probability")
    )
    rule, verdict = mesh[:, 0] - mesh[:, 1], judge[:, 0] - judge[:, 1]
    both = (np.abs(rule) > TIE) & (np.abs(verdict) > TIE)  # NaN, a missing score, compares as False
    found = np.zeros((2, 2), dtype=np.int64)
    np.add.at(found, ((rule[both] < 0).astype(int), (verdict[both] < 0).astype(int)), 1)
    return found
