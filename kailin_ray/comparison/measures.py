"""What is measured of two runs' questions: of each kind of question one group of figures."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.comparison.diversity import commonest_opening, compare_diversity
from kailin_ray.comparison.pairs import KINDS, Asked
from kailin_ray.comparison.statistics import Values, counted, intervals, paired, points
from kailin_ray.comparison.verdicts import Judged

SIDES = ("old", "new", "difference")


def measured(old: Asked, new: Asked, judged: Mapping[str, Judged] | None) -> dict[str, Any]:
    """All figures of n abstracts; ``judged`` by kind, where a judge was asked.

    ``figures``: by name ``old``, ``new`` and ``difference``, each [mean, low, high] or None, and ``abstracts``, of how
    many; a win rate is ``new``, and its difference is to 0.5. ``counts``: what cannot have an interval.
    """
    columns = {"accepted": paired(_number(old.table["ok"]), _number(new.table["ok"]))}
    counts: dict[str, Any] = {"not_accepted": {"old": _reasons(old), "new": _reasons(new)}}
    diversity: dict[str, Any] = {}
    for kind in KINDS:
        mine = _columns(old, new, kind)
        counts[kind] = {"rule": counted(mine["rule"]["new"])}
        if judged is not None:
            mine |= _judge_columns(judged[kind])
            counts[kind]["judge"] = {**counted(mine["judge"]["new"]), **_judge_counts(judged[kind])}
        columns |= {f"{kind}.{name}": column for name, column in mine.items()}
        varied, counts[kind]["openings"] = _diversity(old.questions(kind), new.questions(kind))
        diversity |= {f"{kind}.{name}": one for name, one in varied.items()}
    return {"figures": {**_figures(columns), **diversity}, "counts": counts}


def _columns(old: Asked, new: Asked, kind: str) -> dict[str, dict[str, Values]]:
    asked = [one.questions(kind) for one in (old, new)]
    words = [pc.count_substring_regex(one, r"\S+") for one in asked]
    scores = old.mesh_scores(kind), new.mesh_scores(kind)
    return {
        "asked": paired(*(_number(pc.is_valid(one)) for one in asked)),
        "rule": _rate(points(*scores, TIE)),
        "mesh_score": paired(*scores),
        "words": paired(*map(_number, words)),
    }


def _rate(won: Values) -> dict[str, Values]:
    return {"old": np.full(len(won), np.nan), "new": won, "difference": won - 0.5}


def _judge_columns(judged: Judged) -> dict[str, dict[str, Values]]:
    won = np.where(judged.same, 0.5, points(judged.old, judged.new, TIE))
    if judged.pairwise:
        return {"judge": _rate(won), "judge_probability": _rate(np.where(judged.same, 0.5, judged.new))}
    # Each question's own; of one that is the same in both runs it was not asked.
    return {"judge": _rate(won), "judge_probability": paired(judged.old, judged.new)}


def _judge_counts(judged: Judged) -> dict[str, Any]:
    return {
        "same_question": int(judged.same.sum()),
        "faults": dict(Counter(judged.faults).most_common()),
        "position_bias": position_bias(position_sums(judged.orders)),
    }


def _figures(columns: dict[str, dict[str, Values]]) -> dict[str, Any]:
    found = intervals({f"{name}.{side}": column[side] for name, column in columns.items() for side in SIDES})
    return {
        name: {side: found[f"{name}.{side}"] for side in SIDES}
        | {"abstracts": int((~np.isnan(column["difference"])).sum())}
        for name, column in columns.items()
    }


def _diversity(old: pa.Array, new: pa.Array) -> tuple[dict[str, Any], dict[str, Any]]:
    both = pc.and_(pc.is_valid(old), pc.is_valid(new))
    sides = old.filter(both), new.filter(both)
    varied = compare_diversity(*sides)
    openings = {name: commonest_opening(side) for name, side in zip(("old", "new"), sides, strict=True)}
    return {name: one | {"abstracts": len(sides[0])} for name, one in varied.items()}, openings


def _number(column: Any) -> Values:
    """A column as numbers, NaN where it is null."""
    found = pc.cast(column, pa.float64())
    return found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy()


def _reasons(asked: Asked) -> dict[str, int]:
    counts = asked.table["reason"].drop_null().value_counts()
    found = Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))
    return dict(found.most_common())
