"""What the engines do at the moment, for the progress line: a sign of life while no row is done."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Accounts = Sequence[Mapping[str, Any]]
"""The account of each replica (see ``metering``); a replica keeps its place, and new ones come last."""

NOT_BEGUN = {"seconds": 0.0, "completion_tokens": 0}


def describe_load(before: Accounts, now: Accounts) -> str:
    """Describe the load as ``64 calls in flight, 850 tokens/s``, from the accounts a moment ago and now.

    Tokens are output tokens of calls that have ended, so nothing is said of them before the first has. A replica whose
    account stands still is dead and counts for nothing. Empty while no engine can serve.
    """
    alive = [
        (old, new)
        for old, new in zip_longest(before, now, fillvalue=NOT_BEGUN)
        if new["ready"] and new["seconds"] > old["seconds"]
    ]
    if not alive:
        return ""
    calls = sum(new["in_flight"] for _, new in alive)
    load = f"{calls:,} call{'s' if calls != 1 else ''} in flight"
    if not any(new["completion_tokens"] for _, new in alive):
        return load
    rate = sum(
        (new["completion_tokens"] - old["completion_tokens"]) / (new["seconds"] - old["seconds"]) for old, new in alive
    )
    return f"{load}, {rate:,.0f} tokens/s"
