"""When an engine counts as silent, from accounts with a clock of the test's own."""

import asyncio
import threading
from typing import Any

from kailin_ray.distill.silence import LONGEST_LOOK_S, Silence, end_when_silent
from kailin_ray.engines.interface import Generation
from kailin_ray.engines.metering import Meter
from tests.support.distil_with_faults import made


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_only_calls_that_none_of_them_ends_are_silence() -> None:
    clock, silence = Clock(), Silence()
    meter = Meter("answer", clock)
    meter.ready()

    def after(seconds: float) -> float:
        clock.now += seconds
        return silence.seconds(meter.account())

    async def use() -> None:
        gates: list[asyncio.Future[Generation]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
        assert [after(9), after(9)] == [0, 0]  # no call
        with meter.searching():
            assert after(9) == 0  # rows wait for their contexts: no fault of the engine
        calls = [asyncio.create_task(meter.call(gate)) for gate in gates]
        await asyncio.sleep(0)
        assert [after(1), after(9), after(9)] == [1, 10, 19]
        gates[0].set_result(made("x"))
        await calls[0]
        assert [after(9), after(9)] == [0, 9]  # one of two calls ended: the engine works
        assert after(3600) == 9 + LONGEST_LOOK_S  # nobody looked for an hour: the process was suspended
        gates[1].set_result(made("x"))
        await calls[1]
        assert [after(9), after(9)] == [0, 0]

    asyncio.run(use())


def test_an_engine_that_blocks_its_process_is_ended() -> None:
    meter, ended = Meter("answer"), threading.Event()
    end_when_silent(meter, 0.03, ended.set)

    async def hang() -> Any:
        assert ended.wait(60)  # blocks the event loop
        return made("x")

    asyncio.run(meter.call(hang()))


def test_no_limit_starts_no_thread() -> None:
    before = threading.active_count()
    for minutes in (None, 0.0):
        end_when_silent(Meter("answer"), minutes)
    assert threading.active_count() == before
