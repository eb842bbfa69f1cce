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

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.agents.evaluation import TIE, agreement, position_bias, position_sums
from kailin_ray.dataset.records import record_files
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import OK, REJECTED

_TOKENS = ("prompt", "cached", "completion")
_WAITS = ("queue", "first_token")
_EDGES = np.geomspace(1e-3, 1e4, 141)
"""Of the histograms that percentiles are read from, in seconds: 20 to the decade, so within 6 %."""
_COLUMNS = [
    "status", "reason", "preferred_by", "usage", "judge_orders", "mesh.list.element.ui",
    "candidates.list.element.question", "candidates.list.element.mesh_score",
    "candidates.list.element.judge_probability",
]  # fmt: skip


def count_records(run: Path) -> dict[str, Any]:
    """Add up the records of ``run``; see the sample above."""
    counted: dict[str, Counter[str]] = {name: Counter() for name in ("status", "reason", "preferred_by")}
    tokens: dict[str, Counter[str]] = {}
    waits: dict[tuple[str, str], np.ndarray] = {}
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
        **{name: dict(counter.most_common()) for name, counter in counted.items()},
        "tokens": {
            name: {**counts, **{wait: _percentiles(waits[name, wait]) for wait in _WAITS}}
            for name, counts in sorted(tokens.items())
        },
        "agreement": agreement(table),
        "position_bias": position_bias(positions),
        "headings": {name: dict(counter) for name, counter in headings.items()},
    }


def _values(column: pa.Array) -> dict[str, int]:
    found = column.drop_null().value_counts()
    return dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True))


def _add_usage(
    tokens: dict[str, Counter[str]], waits: dict[tuple[str, str], np.ndarray], batch: pa.RecordBatch
) -> None:
    """Add a batch's calls to each agent's sums and to its histograms of waiting."""
    calls = pa.Table.from_struct_array(pc.list_flatten(batch["usage"]))
    accepted = pc.equal(batch["status"], OK).take(pc.list_parent_indices(batch["usage"]))
    for agent in calls["agent"].unique().to_pylist():
        mine = pc.equal(calls["agent"], agent)
        used = calls.filter(mine)
        lost = used["seconds"].filter(pc.invert(accepted.filter(mine.combine_chunks())))
        tokens.setdefault(agent, Counter()).update(
            calls=used.num_rows,
            **{name: pc.sum(used[f"{name}_tokens"]).as_py() for name in _TOKENS},
            with_contexts_cut=pc.sum(pc.greater(used["contexts_cut"], 0)).as_py(),
            seconds=pc.sum(used["seconds"]).as_py(),
            seconds_not_accepted=pc.sum(lost, min_count=0).as_py(),
        )
        for wait in _WAITS:
            seconds = np.clip(used[f"{wait}_seconds"].to_numpy(), _EDGES[0], _EDGES[-1])
            waits[agent, wait] = waits.get((agent, wait), 0) + np.histogram(seconds, _EDGES)[0]


def _percentiles(histogram: np.ndarray) -> dict[str, float]:
    """The median and the 95th percentile, each as the middle of its bin."""
    middle = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    below = np.cumsum(histogram) / histogram.sum()
    return {f"p{percent}": round(float(middle[np.searchsorted(below, percent / 100)]), 4) for percent in (50, 95)}


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
