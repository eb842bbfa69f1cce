"""What a run's records add up to, by hand, over several files."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset.counts import count_records
from kailin_ray.schema import RECORDS

CALL = {
    "agent": "judge", "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 1, "finish_reason": "stop",
    "contexts_cut": 0, "queue_seconds": 0.0, "first_token_seconds": 0.5, "seconds": 1.0,
}  # fmt: skip


def record(pmid: int, mesh: list[str], rule: list[float | None], judge: list[float | None], **more: Any) -> dict:
    candidates = [
        {"question": f"{m}?", "mesh_score": m, "judge_probability": j} for m, j in zip(rule, judge, strict=True)
    ]
    return {"pmid": pmid, "mesh": [{"ui": ui} for ui in mesh], "candidates": candidates, "status": "ok"} | more


ROWS = [
    record(1, ["D11", "D21"], [0.4, 0.3], [0.7, 0.3], preferred_by="judge", judge_orders=[0.9, 0.5], usage=[CALL] * 2),
    record(
        2,
        ["D11"],
        [0.3, 0.4],
        [0.8, 0.2],
        preferred_by="judge",
        judge_orders=[0.9, 0.7],
        usage=[CALL | {"contexts_cut": 2, "first_token_seconds": 8.0}],
    ),
    record(3, ["D52"], [0.2, 0.8], [0.3, 0.7], preferred_by="judge", judge_orders=[0.4, 0.2]),
    record(4, [], [0.30, 0.30 + 1e-12], [0.3, 0.7], preferred_by="judge", judge_orders=[0.4, 0.2]),  # a tie
    record(
        5,
        ["D12"],
        [0.3, 0.9],
        [0.5, 0.5],
        status="rejected",
        reason="no_preference",
        judge_orders=[0.6, 0.44],
        usage=[CALL | {"agent": "general", "seconds": 2.0}, CALL | {"agent": "general", "seconds": 3.0}],
    ),
    record(6, ["D12"], [None, 0.9], [0.9, 0.1], preferred_by="judge", judge_orders=[0.9, 0.9]),
    record(7, [], [0.9], [None], preferred_by="only"),
    record(8, [], [0.9, 0.1], [None, None], preferred_by="rule"),
    {"pmid": 9, "mesh": None, "status": "failed", "reason": "agent_error"},
]


@pytest.mark.parametrize("pieces", [1, 4])
def test_records_add_up(tmp_path: Path, pieces: int) -> None:
    (tmp_path / "records").mkdir()
    for piece in range(pieces):
        pq.write_table(pa.Table.from_pylist(ROWS[piece::pieces], RECORDS), tmp_path / "records" / f"{piece}.parquet")
    counts = count_records(tmp_path)
    assert counts["status"] == {"ok": 7, "rejected": 1, "failed": 1}
    assert counts["reason"] == {"no_preference": 1, "agent_error": 1}
    assert counts["preferred_by"] == {"judge": 5, "only": 1, "rule": 1}
    judge, general = counts["tokens"]["judge"], counts["tokens"]["general"]
    sums = {"calls": 3, "prompt": 30, "cached": 12, "completion": 3, "with_contexts_cut": 1, "seconds": 3.0}
    assert {name: judge[name] for name in sums} == sums
    assert (general["seconds"], general["seconds_not_accepted"], judge["seconds_not_accepted"]) == (5.0, 5.0, 0.0)
    assert judge["first_token"] == {"p50": pytest.approx(0.5, rel=0.06), "p95": pytest.approx(8.0, rel=0.06)}
    assert judge["queue"]["p95"] < 0.002
    assert counts["headings"] == {"accepted": {"D11": 2, "D21": 1, "D52": 1, "D12": 1}, "rejected": {"D12": 1}}
    # Rows 1, 2 and 3 have both: (0, 0), (1, 0), (1, 1). Chance: 1/3·2/3 + 2/3·1/3 = 4/9; kappa (2/3 - 4/9)/(5/9) = 0.4
    assert counts["agreement"] == {"rows": 3, "share": 0.6667, "cohens_kappa": 0.4}
    # Shown first: 0.9, 0.5; 0.9, 0.3; 0.4, 0.8; 0.4, 0.8; 0.6, 0.56; 0.9, 0.1. Row 5 flips; row 1's tie turns nothing.
    first = (0.9 + 0.5 + 0.9 + 0.3 + 0.4 + 0.8 + 0.4 + 0.8 + 0.6 + 0.56 + 0.9 + 0.1) / 12
    assert counts["position_bias"] == {"rows": 6, "first": pytest.approx(first, abs=1e-4), "flipped": 0.1667}


def test_a_run_without_a_judge_has_no_agreement(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS[6:], RECORDS), tmp_path / "records" / "a.parquet")
    counts = count_records(tmp_path)
    assert counts["agreement"]["rows"] == counts["position_bias"]["rows"] == 0
