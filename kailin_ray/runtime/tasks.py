"""Run one task per item, as many at once as the cluster has CPUs; only the tasks' reports come to the driver."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data

from kailin_ray.io.pmids import among

R = TypeVar("R", bound=Mapping[str, object])
"""The report of a task."""


def each(task: Callable[..., R], items: Sequence[Any], keys: Mapping[str, Any]) -> Iterator[R]:
    """Yield the report of ``task(item, **keys)`` for each item, in order of completion.

    Items and reports are JSON values. A task whose machine is lost runs again, so it must be repeatable.
    """
    if not items:  # Ray Data cannot create a dataset from no items
        return
    # As text, because dicts in one column would need the same keys.
    rows = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=len(items))
    for row in rows.map(_run, fn_kwargs={"task": task, "keys": dict(keys)}).iter_rows():
        yield json.loads(row["report"])


def _run(row: dict[str, str], task: Callable[..., Mapping[str, object]], keys: Mapping[str, Any]) -> dict[str, str]:
    return {"report": json.dumps(task(json.loads(row["item"]), **keys))}


def select_rows(block: pa.Table, wanted: Any, done: Any) -> pa.Table:
    """Return the rows of a block that are wanted and not done.

    ``wanted`` (None inside for all) and ``done`` are references to sorted arrays, of which each node holds one copy.
    """
    pmids = block["pmid"].to_numpy()
    chosen, finished = ray.get([wanted, done])
    keep = ~among(pmids, finished)
    if chosen is not None:
        keep &= among(pmids, chosen)
    return block.filter(pa.array(keep))
