"""Count the records of a run. The code works on columns, never on rows: a run may have millions of rows.

Sample::

    {"status": {"ok": 34, "rejected": 14}, "reason": {"answer_truncated": 6, ...}, "preferred_by": {"judge": 31, ...},
     "tokens": {"general": {"calls": 48, "prompt": 36433, "cached": 24064, "completion": 846, "with_contexts_cut": 0,
                            "seconds": 310.2, "seconds_not_accepted": 71.0,
                            "first_token": {"p50": 0.21, "p95": 0.9}, "queue": {"p50": 0.01, "p95": 0.4}}, ...},
     "agreement": {"rows": 40, "share": 0.55, "cohens_kappa": 0.1},
     "position_bias": {"rows": 43, "first": 0.71, "flipped": 0.6},
     "variety": {"decisions": {"yes": 20, "no": 3, ...}, ...},
     "headings": {"accepted": {"D006801": 30, ...}, "rejected": {...}}}
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import TypedDict

from kailin_ray.agents.evaluation import TIE, Agreement, PositionBias, agreement, position_bias, position_sums
from kailin_ray.dataset.records import record_files
from kailin_ray.dataset.variety import Variety, VarietyCounter
from kailin_ray.io.storage import open_parquet
from kailin_ray.schema import OK, REJECTED

_TOKENS = ("prompt", "cached", "completion")
_Wait = Literal["queue", "first_token"]
_WAITS: tuple[_Wait, ...] = ("queue", "first_token")
_EDGES = np.geomspace(1e-3, 1e4, 141)
"""Bin edges, in seconds, of the histograms from which percentiles are read: 20 per decade, so accurate to 6 %."""
_COLUMNS = [
    "status", "reason", "preferred", "preferred_by", "decision.word", "usage", "judge_orders", "mesh.list.element.ui",
    "candidates.list.element.agent", "candidates.list.element.question", "candidates.list.element.mesh_score",
    "candidates.list.element.judge_probability",
]  # fmt: skip

Sums = defaultdict[str, float]
"""Sums over one agent's calls, by the field of ``AgentTokens``."""


class Waits(TypedDict):
    """Percentiles of seconds."""

    p50: float
    p95: float


class AgentTokens(TypedDict):
    """The cost of one agent's calls."""

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
    """Counts of MeSH headings, by UI, in accepted and in rejected documents."""

    accepted: dict[str, int]
    rejected: dict[str, int]


class RecordCounts(TypedDict):
    """The counts of a run's records; see the sample above."""

    status: dict[str, int]
    reason: dict[str, int]
    preferred_by: dict[str, int]
    tokens: dict[str, AgentTokens]
    agreement: Agreement
    position_bias: PositionBias
    variety: Variety
    headings: Headings


def count_records(run: Path) -> RecordCounts:
    """Count the records of ``run``; see the sample above."""
    counters: dict[str, Counter[str]] = {name: Counter() for name in ("status", "reason", "preferred_by")}
    tokens: dict[str, Sums] = {}
    waits: dict[tuple[str, _Wait], np.ndarray] = {}
    headings: dict[str, Counter[str]] = {"accepted": Counter(), "rejected": Counter()}
    table = np.zeros((2, 2), dtype=np.int64)
    positions = np.zeros(3)
    variety = VarietyCounter()
    for file in record_files(run / "records"):
        for batch in open_parquet(file).iter_batches(columns=_COLUMNS):
            for name, counter in counters.items():
                counter.update(_values(batch[name]))
            _add_usage(tokens, waits, batch)
            for name, status in (("accepted", OK), ("rejected", REJECTED)):
                chosen = batch["mesh"].filter(pc.equal(batch["status"], status))
                headings[name].update(_values(pc.struct_field(pc.list_flatten(chosen), "ui")))
            variety.add(_list_accepted(batch))
            table += _leanings(batch["candidates"])
            orders = batch["judge_orders"].drop_null()
            positions += position_sums(orders.flatten().to_numpy().reshape(-1, 2))
    return {
        "status": dict(counters["status"].most_common()),
        "reason": dict(counters["reason"].most_common()),
        "preferred_by": dict(counters["preferred_by"].most_common()),
        "tokens": {
            name: _format_counts(sums, {wait: _percentiles(waits[name, wait]) for wait in _WAITS})
            for name, sums in sorted(tokens.items())
        },
        "agreement": agreement(table),
        "position_bias": position_bias(positions),
        "variety": variety.counts(),
        "headings": {"accepted": dict(headings["accepted"]), "rejected": dict(headings["rejected"])},
    }


def count_of_before(run: Path) -> int:
    """Return how many accepted records of ``run`` are of a version that did not record ``shown``."""
    total = 0
    for path in record_files(run / "records"):
        with open_parquet(path) as file:
            has_shown = "shown" in file.schema_arrow.names
            for batch in file.iter_batches(columns=["status", *(["shown.list.element.pmid"] if has_shown else [])]):
                is_counted = pc.equal(batch["status"], OK)
                if has_shown:
                    is_counted = pc.and_(is_counted, batch["shown"].is_null())
                total += pc.sum(is_counted, min_count=0).as_py()
    return total


def _list_accepted(batch: pa.RecordBatch) -> Iterator[tuple[str | None, str, str]]:
    """Return decision, agent and question of each accepted record of a batch."""
    is_accepted = pc.and_(pc.equal(batch["status"], OK), pc.is_valid(batch["preferred"]))
    rows = batch.select(["preferred", "decision", "candidates"]).filter(is_accepted)
    candidates = rows["candidates"]
    chosen = candidates.flatten().take(pa.array(_starts(candidates) + rows["preferred"].to_numpy()))
    columns = (
        pc.struct_field(rows["decision"], "word"),
        *(pc.struct_field(chosen, name) for name in ("agent", "question")),
    )
    return zip(*(column.to_pylist() for column in columns), strict=True)


def _starts(lists: pa.ListArray) -> np.ndarray:
    """Return where each list starts among the elements of all lists."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    return np.cumsum(lengths) - lengths


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
    """Return how often each value of a column occurs."""
    counts = column.drop_null().value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _add_usage(tokens: dict[str, Sums], waits: dict[tuple[str, _Wait], np.ndarray], batch: pa.RecordBatch) -> None:
    """Add a batch's calls to the sums and to the histograms of waiting times of each agent."""
    calls = pa.Table.from_struct_array(pc.list_flatten(batch["usage"]))
    accepted = pc.equal(batch["status"], OK).take(pc.list_parent_indices(batch["usage"]))
    for agent in calls["agent"].unique().to_pylist():
        is_agent = pc.equal(calls["agent"], agent)
        agent_calls = calls.filter(is_agent)
        lost = agent_calls["seconds"].filter(pc.invert(accepted.filter(is_agent.combine_chunks())))
        sums = tokens.setdefault(agent, defaultdict(float))
        sums["calls"] += agent_calls.num_rows
        for name in _TOKENS:
            sums[name] += pc.sum(agent_calls[f"{name}_tokens"]).as_py()
        sums["with_contexts_cut"] += pc.sum(pc.greater(agent_calls["contexts_cut"], 0)).as_py()
        sums["seconds"] += pc.sum(agent_calls["seconds"]).as_py()
        sums["seconds_not_accepted"] += pc.sum(lost, min_count=0).as_py()
        for wait in _WAITS:
            seconds = np.clip(agent_calls[f"{wait}_seconds"].to_numpy(), _EDGES[0], _EDGES[-1])
            waits[agent, wait] = waits.get((agent, wait), 0) + np.histogram(seconds, _EDGES)[0]


def _percentiles(histogram: np.ndarray) -> Waits:
    """Return the median and the 95th percentile, each as the (geometric) middle of its bin."""
    middles = np.sqrt(_EDGES[1:] * _EDGES[:-1])
    cumulative = np.cumsum(histogram) / histogram.sum()
    median, p95 = (round(float(middles[np.searchsorted(cumulative, share)]), 4) for share in (0.5, 0.95))
    return {"p50": median, "p95": p95}


def _leanings(candidates: pa.ListArray) -> np.ndarray:
    """Count rows, (2, 2), by the candidate that the rule scores higher and the candidate that the judge scores higher.

    Rows without both scores, or with a tie, are left out. The margin does not matter: under ``rule_then_judge`` the
    judge is asked where the rule's margin was too small.
    """
    pairs = candidates.filter(pc.equal(pc.list_value_length(candidates), 2)).flatten()
    mesh, judge = (
        pc.struct_field(pairs, name).to_numpy(zero_copy_only=False).astype(float).reshape(-1, 2)
        for name in ("mesh_score", "judge_probability")
    )
    rule, verdict = mesh[:, 0] - mesh[:, 1], judge[:, 0] - judge[:, 1]
    both = (np.abs(rule) > TIE) & (np.abs(verdict) > TIE)  # a missing score is NaN, and its comparison is False
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, ((rule[both] < 0).astype(int), (verdict[both] < 0).astype(int)), 1)
    return table
