"""Accounts with a clock of the test's own: every second is booked once."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.distill.accounting import Session, account, add_up, all_sessions
from kailin_ray.engines.interface import Generation
from kailin_ray.engines.metering import Meter, MeteredEngine

STATES = ("start", "busy", "retrieval", "idle")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def generation(completion: int = 3) -> Generation:
    return Generation(
        text="t",
        finish_reason="stop",
        prompt_tokens=10,
        cached_tokens=4,
        completion_tokens=completion,
        probabilities={},
    )


async def takes(clock: Clock, seconds: float) -> Generation:
    clock.now += seconds
    return generation()


def test_every_second_is_booked_on_what_went_on() -> None:
    clock = Clock()
    meter = Meter("answer", clock)
    clock.now += 30
    meter.ready()
    clock.now += 2
    with meter.searching():
        clock.now += 3
        asyncio.run(meter.call(takes(clock, 5)))  # a search beside a call is no waiting for retrieval
    clock.now += 1
    meter.rows_done([{"status": "ok"}, {}, {"status": "rejected", "reason": "no_mesh"}, {"status": None}])
    told = meter.account()
    assert {state: told[state] for state in STATES} == {"start": 30, "busy": 5, "retrieval": 3, "idle": 3}
    assert (told["seconds"], told["calls"]) == (41, 5)
    assert told["rows"] == {"ok": 1, "rejected": 1, "on its way": 2}
    assert (told["prompt_tokens"], told["cached_tokens"], told["completion_tokens"]) == (10, 4, 3)


def test_calls_at_once_are_integrated() -> None:
    clock = Clock()
    meter = Meter("s", clock)
    meter.ready()

    async def two() -> None:
        gate = asyncio.Event()

        async def wait() -> Generation:
            await gate.wait()
            return generation()

        engine: Any = SimpleNamespace(generate=lambda *_: wait())
        both = asyncio.gather(*(MeteredEngine(engine, meter).generate([], {}) for _ in range(2)))
        await asyncio.sleep(0)
        clock.now += 4
        assert (meter.account()["in_flight"], meter.account()["completion_tokens"]) == (2, 0)
        gate.set()
        await both

    asyncio.run(two())
    told = meter.account()
    assert (told["busy"], told["calls"], told["in_flight"]) == (4, 8, 0)


@given(st.lists(st.tuples(st.sampled_from(["call", "search", "pass"]), st.floats(0, 10)), max_size=20))
def test_the_states_add_up_to_the_time(events: list[tuple[str, float]]) -> None:
    clock = Clock()
    meter = Meter("s", clock)
    for number, (what, seconds) in enumerate(events):
        if number == 3:
            meter.ready()
        if what == "call":
            asyncio.run(meter.call(takes(clock, seconds)))
        elif what == "search":
            with meter.searching():
                clock.now += seconds
        else:
            clock.now += seconds
    told = meter.account()
    assert sum(told[state] for state in STATES) == pytest.approx(told["seconds"]) == pytest.approx(clock.now - 100)


def test_a_call_that_fails_is_over() -> None:
    meter = Meter("s")

    async def fails() -> Generation:
        raise RuntimeError("odd")

    with pytest.raises(RuntimeError):
        asyncio.run(meter.call(fails()))
    assert (meter.account()["in_flight"], meter.account()["prompt_tokens"]) == (0, 0)


def told(stage: str, seconds: float, **more: Any) -> dict[str, Any]:
    counts = ("calls", "prompt_tokens", "cached_tokens", "completion_tokens", "searches_retried")
    zero = dict.fromkeys((*STATES, *counts), 0)
    return {"stage": stage, "seconds": seconds, "rows": {}, "ready": True, "in_flight": 0} | zero | more


def test_sessions_add_up_with_those_that_were_killed(tmp_path: Path) -> None:
    engine = SimpleNamespace(path="m")
    stage = SimpleNamespace(name="answer", engine=engine)
    concurrency = SimpleNamespace(max_num_seqs=8, max_concurrent_rows=10)
    pool = SimpleNamespace(stage=stage, replicas=2, demand=SimpleNamespace(gpus=1), concurrency=concurrency)
    plan: Any = SimpleNamespace(phases=[(pool,)])
    phase: Any = (pool,)
    first = Session(tmp_path, plan)
    # One of two replicas died and was replaced.
    far = {"state": "running"}
    first.update(1, phase, [], 0.0, far)
    assert all_sessions(tmp_path)["stages"]["answer"]["gpus"] == 1  # before any replica has told of itself
    first.update(1, phase, [told("answer", 100, start=20, busy=80), told("answer", 40, start=20, busy=20)], 60.0, far)
    first.update(
        1,
        phase,
        [told("answer", 100, start=20, busy=80), told("answer", 40), told("answer", 60, searches_retried=2)],
        90.0,
        far,
    )
    Session(tmp_path, plan).update(
        1, phase, [told("answer", 3600, busy=1800, idle=1800, completion_tokens=7200, searches_retried=5)], 3600.0, far
    )
    found = all_sessions(tmp_path)
    sums = found["stages"]["answer"]
    assert (found["num"], sums["starts"], sums["restarts"], sums["gpu_seconds"]) == (2, 4, 1, 3800)
    assert found["seconds"]["distill"] == 3690.0
    assert len(list((tmp_path / "sessions").iterdir())) == 2
    by_agent = {"answer": {"seconds": 30.0, "seconds_not_accepted": 12.0}}
    cost = account(found, by_agent, num_documents=1000, num_ok=380, gpu_hour_price=2.0)
    assert cost.cost == {
        "unit": "GPU", "hours": round(3800 / 3600, 4), "accepted_per_hour": 360.0,
        "hours_per_million_abstracts": 1055.6, "price_per_million_abstracts": 2111.11, "not_accepted": 0.4,
    }  # fmt: skip
    figures = cost.engines["answer"]
    assert (figures["restarts"], figures["idle_share"]) == (1, round(1800 / 3800, 4))
    assert figures["searches_retried"] == 7
    assert figures["output_tokens_per_second"] == round(7200 / (3800 - 20), 1)
    json.dumps(vars(cost))


def test_without_gpus_what_is_said_per_gpu_is_said_per_engine(tmp_path: Path) -> None:
    sums = add_up([told("s", 1800, busy=900)], replicas=1, gpus=0)
    sessions = {
        "num": 1,
        "seconds": {"total": 1.0, "engine_start": 0.0, "distill": 1.0},
        "stages": {"s": sums},
        "plan": None,
    }
    cost = account(sessions, {}, num_documents=10, num_ok=5, gpu_hour_price=2.0).cost
    assert (cost["unit"], cost["hours"], cost["accepted_per_hour"]) == ("engine", 0.5, 10.0)
    assert cost["price_per_million_abstracts"] is None
