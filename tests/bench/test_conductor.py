"""The conductor: engines begin together, repeat together, and a dead one ends the measurement."""

import asyncio
from typing import Any

import pytest

from kailin_ray.bench.conductor import Conductor
from kailin_ray.bench.engine import describe_calls, describe_machine
from kailin_ray.errors import CommandFailedError

MACHINE = describe_machine()


async def all_of(*calls: Any) -> list[Any]:
    return await asyncio.wait_for(asyncio.gather(*calls), 10)


def test_engines_begin_together_and_the_last_row_waits_for_their_reports() -> None:
    async def measure() -> None:
        conductor = Conductor([2, 1], 8, True, False)
        early = asyncio.create_task(conductor.arrive(MACHINE))
        await asyncio.sleep(0.01)
        assert not early.done()
        await all_of(early, conductor.arrive(MACHINE))
        waiting = asyncio.create_task(conductor.rows_done())
        await conductor.warm()
        await all_of(conductor.finish(5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        last = asyncio.create_task(conductor.finish(3))
        assert (await all_of(waiting))[0] == (True, False)
        await conductor.report(describe_calls([]))
        await asyncio.sleep(0.01)
        assert not last.done()
        await conductor.report(describe_calls([]))
        await all_of(last)
        # The next phase has one engine.
        await all_of(conductor.arrive(MACHINE))
        last = asyncio.create_task(conductor.finish(8))
        await asyncio.sleep(0.01)
        await conductor.report(describe_calls([]))
        await all_of(last)
        machines, phases = await conductor.results()
        assert machines == [MACHINE, MACHINE]
        assert [len(reports) for _, reports in phases] == [2, 1]
        assert phases[0][0] >= 0.01

    asyncio.run(measure())


def test_an_engine_that_starts_again_ends_the_measurement() -> None:
    async def measure() -> None:
        conductor = Conductor([1], 8, True, False)
        await conductor.arrive(MACHINE)
        with pytest.raises(CommandFailedError, match="an engine died"):
            await conductor.arrive(MACHINE)

    asyncio.run(measure())


def test_an_engine_that_cannot_repeat_ends_the_measurement() -> None:
    async def measure() -> None:
        conductor = Conductor([2], 8, True, False)
        last = asyncio.create_task(conductor.finish(8))
        await conductor.report(describe_calls([]))
        await conductor.fail("out of memory")
        with pytest.raises(CommandFailedError, match="out of memory"):
            await all_of(last)

    asyncio.run(measure())
