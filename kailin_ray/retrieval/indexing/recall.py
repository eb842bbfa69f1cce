"""Measure a structure's recall against exact search, and find the cheapest parameters that reach a target.

recall@k is the share of the k passages from exact search that are among the k passages found. Some questions are used
for tuning; the manifest has the recall of the other questions, which did not influence the parameters.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from kailin_ray.retrieval.search.folder import Recall
from kailin_ray.retrieval.search.store import Rows

DEPTHS = (4, 10)
"""Depths of the reported recall: the paper's k, and a more demanding one."""
TUNED_AT = DEPTHS[0]
SPARE = 0.015
"""Tuning aims this much higher than the target, because recall is slightly lower for other questions."""
NUM_CANDIDATES = (32, 64, 128, 256, 512, 1_024)
NPROBE = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1_024, 2_048, 4_096)
EF_SEARCH = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1_024, 2_048)

Find = Callable[[dict[str, int]], Rows]
"""Takes parameters and returns the rows (q, k) that are found with them, best first."""


def without(rows: Rows, sources: Rows) -> Rows:
    """Return the first k - 1 of each query's rows (q, k), without the row of its own source (q,), -1 for none."""
    order = np.argsort(rows == sources[:, None], axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)[:, :-1]


def shares(found: Rows, exact: Rows, k: int) -> npt.NDArray[np.float64]:
    """Return each query's recall@k, (q,)."""
    exact = exact[:, :k]
    hits = (found[:, :k, None] == exact[:, None, :]) & (exact >= 0)[:, None, :]
    return np.asarray(hits.sum(axis=(1, 2)) / np.maximum(1, (exact >= 0).sum(axis=1)))


def summary(found: Rows, exact: Rows) -> Recall:
    """Return recall@k at both depths, with the half-width of its 95 % interval over queries."""
    (few, few_error), (many, many_error) = (_mean(shares(found, exact, k)) for k in DEPTHS)
    return Recall(
        num_queries=len(exact),
        recall_at_4=few,
        recall_at_4_ci95=few_error,
        recall_at_10=many,
        recall_at_10_ci95=many_error,
    )


def _mean(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % interval."""
    return round(float(values.mean()), 4), round(float(1.96 * values.std() / np.sqrt(len(values))), 4)


def parameters(kind: str, num_lists: int) -> tuple[str, list[int]]:
    """Return the parameter that sets how much of a structure is searched, and the values to try, ascending."""
    if kind == "hnsw":
        return "ef_search", list(EF_SEARCH)
    return "nprobe", [value for value in NPROBE if value < num_lists] + [num_lists]


def tune(find: Find, exact: Rows, kind: str, num_lists: int, target: float) -> dict[str, int]:
    """Return the cheapest parameters whose recall@4 reaches the target plus ``SPARE``, else the most thorough ones.

    First finds the fewest candidates that suffice in a thorough search, then the least search that suffices for these.
    """
    name, values = parameters(kind, num_lists)

    def enough(look: int, number: int) -> bool:
        recall = shares(find({name: look, "num_candidates": number}), exact, TUNED_AT).mean()
        return bool(recall >= min(1.0, target + SPARE))

    for far in _steps(values):
        for number in NUM_CANDIDATES:
            if enough(far, number):
                look = next(value for value in values if value == far or enough(value, number))
                return {name: look, "num_candidates": number}
    return {name: values[-1], "num_candidates": NUM_CANDIDATES[-1]}


def _steps(values: list[int]) -> Iterator[int]:
    """Yield a thorough but cheap enough value to try first, then all larger values."""
    middle = len(values) * 2 // 3
    yield from values[middle:]
