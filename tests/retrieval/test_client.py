"""Asking retrievers that die, real actors in real processes: each question gets its own answer, once."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from kailin_ray.engines.metering import Meter
from kailin_ray.retrieval import client
from kailin_ray.retrieval.client import Searcher
from kailin_ray.retrieval.search.index import Hit

HOLD, DIE, ALWAYS_DIE, FAIL, HANG = "hold", "die", "always die", "fail", "hang"


class Actor:
    """A retriever whose questions say what it shall do; ``folder`` has a line for each call that it answered."""

    def __init__(self, folder: str, name: str, machine: str | None):
        self.folder, self.name = Path(folder), name
        self.machine = machine or ray.get_runtime_context().get_node_id()
        if (self.folder / "no start").exists():
            raise ValueError("the index is gone")

    async def ready(self) -> str:
        return self.machine

    async def search(self, queries: list[Any]) -> list[list[Hit]]:
        asked = [question for question, _, _ in queries]
        if ALWAYS_DIE in asked or (DIE in asked and self.once("died")):
            await asyncio.sleep(0.1)  # in the middle of other calls too
            os._exit(1)
        if HANG in asked and self.once("hung"):
            time.sleep(1_000)
        while HOLD in asked and not (self.folder / "go on").exists():
            await asyncio.sleep(0.01)
        if FAIL in asked:
            raise KeyError(FAIL)
        with (self.folder / "calls").open("a") as calls:
            calls.write(f"{self.name}: {', '.join(asked)}\n")
        return [answer(question, k) for question, k, _ in queries]

    def once(self, name: str) -> bool:
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def answer(question: str, k: int) -> list[Hit]:
    return [Hit(number, 0.5, question, "text", []) for number in range(k)]


@pytest.fixture(autouse=True)
def session(ray_here: Callable[[], None]) -> None:
    ray_here()


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started = []

    def one(name: str, machine: str | None = "elsewhere", restarts: int = -1) -> Any:
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 100, "max_restarts": restarts}
        started.append(ray.remote(**options)(Actor).remote(str(tmp_path), name, machine))
        return started[-1]

    yield one
    for actor in started:
        ray.kill(actor)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def asked(retrievers: list[Any], meter: Meter, use: Callable[[Searcher], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(use(Searcher(retrievers, meter)), 60))


async def ask(searcher: Searcher, *questions: str) -> Any:
    return await asyncio.gather(*(searcher.search(one, 2, None) for one in questions), return_exceptions=True)


def test_what_many_ask_in_one_turn_goes_as_one_call(start: Start, tmp_path: Path) -> None:
    meter = Meter("s")
    assert asked([start("a")], meter, lambda s: ask(s, "x", "y", "z")) == [answer(one, 2) for one in "xyz"]
    assert calls(tmp_path) == ["a: x, y, z"]
    assert meter.account()["searches_retried"] == 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_death_costs_its_questions_a_retry_only(start: Start, tmp_path: Path, number: int) -> None:
    """With one retriever it is waited for; with two the other one answers."""
    meter = Meter("s")

    async def use(searcher: Searcher) -> Any:
        first = asyncio.create_task(ask(searcher, "x", DIE, "y"))
        await asyncio.sleep(0.05)  # in another call, to the other one where there are two
        return await first, await ask(searcher, "z")

    found = asked([start(name) for name in "ab"[:number]], meter, use)
    assert found == ([answer(one, 2) for one in ("x", DIE, "y")], [answer("z", 2)])
    assert sorted(call[3:] for call in calls(tmp_path)) == [f"x, {DIE}, y", "z"]
    assert meter.account()["searches_retried"] == 3


def test_a_retriever_that_ray_kills_in_the_middle_of_a_call_is_waited_for(start: Start, tmp_path: Path) -> None:
    meter, actor = Meter("s"), start("a")

    async def use(searcher: Searcher) -> Any:
        held = asyncio.create_task(ask(searcher, HOLD))
        await asyncio.sleep(0.3)
        ray.kill(actor, no_restart=False)
        while not meter.account()["searches_retried"]:
            await asyncio.sleep(0.05)
        (tmp_path / "go on").touch()
        return await held

    assert asked([actor], meter, use) == [answer(HOLD, 2)]
    assert (calls(tmp_path), meter.account()["searches_retried"]) == ([f"a: {HOLD}"], 1)


@pytest.mark.parametrize("number", [1, 2])
def test_a_retriever_that_falls_silent_is_killed_and_its_questions_are_asked_again(
    start: Start, tmp_path: Path, number: int
) -> None:
    meter = Meter("s")

    async def use() -> Any:
        searcher = Searcher([start(name) for name in "ab"[:number]], meter, max_silent_minutes=0.05)
        return await ask(searcher, HANG, "x"), await ask(searcher, "y"), await ask(searcher, "z")

    found = asyncio.run(asyncio.wait_for(use(), 120))
    assert found == ([answer(one, 2) for one in (HANG, "x")], [answer("y", 2)], [answer("z", 2)])
    assert (len(calls(tmp_path)), meter.account()["searches_retried"]) == (3, 2)


def test_one_that_is_gone_for_good_is_asked_no_more(start: Start, tmp_path: Path) -> None:
    async def use(searcher: Searcher) -> Any:
        return [await ask(searcher, DIE), await ask(searcher, "x"), await ask(searcher, "y")]

    assert asked([start("a", restarts=0), start("b", restarts=0)], Meter("s"), use) == [
        [answer(one, 2)] for one in (DIE, "x", "y")
    ]
    assert len({call[0] for call in calls(tmp_path)}) == 1


def test_once_all_are_gone_for_good_each_row_gets_the_reason(start: Start, tmp_path: Path) -> None:
    async def use(searcher: Searcher) -> Any:
        before = await ask(searcher, "x")
        (tmp_path / "no start").touch()
        return before, await ask(searcher, DIE, "y"), await ask(searcher, "z")

    before, at, after = asked([start("a")], Meter("s"), use)
    assert before == [answer("x", 2)]
    for error in (*at, *after):
        assert isinstance(error, ray.exceptions.RayActorError)
        assert "the index is gone" in str(error)
    # Nor can an engine start with nobody to ask.
    with pytest.raises(ray.exceptions.RayActorError, match="the index is gone"):
        Searcher([start("b"), start("c")], Meter("s"))


def test_an_engine_starts_with_the_retrievers_that_can(start: Start, tmp_path: Path) -> None:
    good = start("a")
    ray.get(good.ready.remote())
    (tmp_path / "no start").touch()
    assert asked([start("b"), good], Meter("s"), lambda s: ask(s, "x")) == [answer("x", 2)]


def test_questions_that_kill_whoever_is_asked_fail_and_the_next_do_not(start: Start, tmp_path: Path) -> None:
    meter = Meter("s")

    async def use(searcher: Searcher) -> Any:
        return await ask(searcher, ALWAYS_DIE), await ask(searcher, "x")

    (deadly,), good = asked([start("a")], meter, use)
    assert isinstance(deadly, ray.exceptions.RayActorError)
    assert good == [answer("x", 2)]
    assert meter.account()["searches_retried"] == client.MORE_TRIES


def test_a_search_that_raises_is_not_tried_again(start: Start) -> None:
    meter = Meter("s")
    (error,) = asked([start("a"), start("b")], meter, lambda s: ask(s, FAIL))
    assert isinstance(error, KeyError)
    assert meter.account()["searches_retried"] == 0


def test_one_that_does_not_come_back_in_time_is_an_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(searcher: Searcher) -> Any:
        monkeypatch.setattr(client, "RETURN_S", 0.0)
        return await ask(searcher, DIE)

    (error,) = asked([start("a")], Meter("s"), use)
    assert isinstance(error, TimeoutError)
    assert "none of 1 retrievers came back within 0 seconds" in str(error)


def test_the_retriever_of_the_same_machine_is_asked_while_it_lives(start: Start, tmp_path: Path) -> None:
    far, near = start("far"), start("near", machine=None)

    async def use(searcher: Searcher) -> None:
        for questions in (("x",), (HOLD, "y"), (DIE,), ("z",)):
            asyncio.get_running_loop().call_later(0.3, (tmp_path / "go on").touch)
            await ask(searcher, *questions)
        while not any(call == "near: back" for call in calls(tmp_path)):
            await ask(searcher, "back")

    asked([far, near], Meter("s"), use)
    assert calls(tmp_path)[:3] == ["near: x", f"near: {HOLD}, y", f"far: {DIE}"]


def test_of_retrievers_elsewhere_the_one_with_fewer_questions_is_asked(start: Start, tmp_path: Path) -> None:
    async def use(searcher: Searcher) -> None:
        held = asyncio.create_task(ask(searcher, HOLD))
        await asyncio.sleep(0.05)  # in a call of its own
        for question in ("x", "y", "z"):
            await ask(searcher, question)
        (tmp_path / "go on").touch()
        await held

    asked([start("a"), start("b")], Meter("s"), use)
    *others, held = calls(tmp_path)
    assert [call[1:] for call in others] == [": x", ": y", ": z"]
    assert {call[0] for call in others} == set("ab") - {held[0]}
