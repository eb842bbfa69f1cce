"""The current load of the engines, for the progress line: it shows activity while no row is finished."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Accounts = Sequence[Mapping[str, Any]]
"""The account of each replica (see ``metering``). A replica keeps its place in the list, and new replicas come last."""

NOT_BEGUN = {"seconds": 0.0, "completion_tokens": 0}


def describe_load(before: Accounts, now: Accounts) -> str:
    """Return the load as text, such as ``64 calls in flight, 850 tokens/s``, from two snapshots of the accounts.

    Tokens are output tokens of calls that have ended, so no rate is shown before the first call has ended. A replica
    whose account does not change is dead and is ignored. The text is empty while no engine can serve.
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
