"""What the progress line says of the engines, from their accounts a moment ago and now."""

from typing import Any

import pytest

from kailin_ray.distill.engine_load import describe_load


def account(seconds: float, tokens: int = 0, in_flight: int = 0, ready: bool = True) -> dict[str, Any]:
    return {"seconds": seconds, "completion_tokens": tokens, "in_flight": in_flight, "ready": ready}


@pytest.mark.parametrize(
    ("before", "now", "load"),
    [
        # Nothing is known yet, or no engine can serve.
        ([], [], ""),
        ([account(50, 100, 4)], [account(50, 100, 4)], ""),
        ([account(5, ready=False)], [account(15, ready=False)], ""),
        # Calls are in flight, and none has ended yet.
        ([account(50)], [account(60, in_flight=64)], "64 calls in flight"),
        ([account(50)], [account(60, in_flight=1)], "1 call in flight"),
        ([account(50, 100, 64)], [account(60, 8_600, 64)], "64 calls in flight, 850 tokens/s"),
        # None has ended of late, or all rows wait for something else.
        ([account(50, 100, 64)], [account(60, 100, 0)], "0 calls in flight, 0 tokens/s"),
        # Engines add up, each by its own clock.
        ([account(50, 0, 3), account(20, 40, 5)], [account(60, 9_990, 1_200), account(25, 50, 5)],
         "1,205 calls in flight, 1,001 tokens/s"),
        # One that has begun since counts from its beginning.
        ([account(50, 100, 2)], [account(60, 200, 2), account(10, 50, 7)], "9 calls in flight, 15 tokens/s"),
        # One that died stands as it was; the one that starts in its place cannot serve yet.
        ([account(50, 100, 64), account(50, 100, 6)],
         [account(50, 100, 64), account(60, 200, 6), account(5, ready=False)], "6 calls in flight, 10 tokens/s"),
    ],
)  # fmt: skip
def test_the_load(before: list[dict[str, Any]], now: list[dict[str, Any]], load: str) -> None:
    assert describe_load(before, now) == load
