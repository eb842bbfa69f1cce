"""Measure the questions of two runs: one group of figures for each kind of question."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.comparison.diversity import commonest_opening, compare_diversity
from kailin_ray.comparison.figures import Figure, JudgeCounts, KindCounts, Measures, Reasons
from kailin_ray.comparison.pairs import KINDS, Asked
from kailin_ray.comparison.statistics import Values, count_wins, intervals, pair_values, points
from kailin_ray.comparison.verdicts import Judged


def measure(old: Asked, new: Asked, judged: Mapping[str, Judged] | None) -> Measures:
    """Return all figures of n abstracts. ``judged``: the verdicts by kind of question, None without a judge."""
    columns = {"accepted": pair_values(_number(old.table["ok"]), _number(new.table["ok"]))}
    counts: dict[str, KindCounts] = {}
    diversity: dict[str, Figure] = {}
    for kind in KINDS:
        kind_columns = _columns(old, new, kind)
        questions, number = _both_asked(old.questions(kind), new.questions(kind))
        counts[kind] = {
            "rule": count_wins(kind_columns["rule"]["new"]),
            "openings": {"old": commonest_opening(questions[0]), "new": commonest_opening(questions[1])},
        }
        if judged is not None:
            kind_columns |= _judge_columns(judged[kind])
            counts[kind]["judge"] = _judge_counts(kind_columns["judge"]["new"], judged[kind])
        columns |= {f"{kind}.{name}": column for name, column in kind_columns.items()}
        diversity |= {
            f"{kind}.{name}": Figure(**compared, abstracts=number)
            for name, compared in compare_diversity(*questions).items()
        }
    not_accepted = Reasons(old=_reasons(old), new=_reasons(new))
    return Measures({**_figures(columns), **diversity}, not_accepted, counts)


def _columns(old: Asked, new: Asked, kind: str) -> dict[str, dict[str, Values]]:
    questions = [side.questions(kind) for side in (old, new)]
    words = [pc.count_substring_regex(side, r"\S+") for side in questions]
    scores = old.mesh_scores(kind), new.mesh_scores(kind)
    return {
        "asked": pair_values(*(_number(pc.is_valid(side)) for side in questions)),
        "rule": _rate(points(*scores, TIE)),
        "mesh_score": pair_values(*scores),
        "words": pair_values(*map(_number, words)),
    }


def _rate(won: Values) -> dict[str, Values]:
    return {"old": np.full(len(won), np.nan), "new": won, "difference": won - 0.5}


def _judge_columns(judged: Judged) -> dict[str, dict[str, Values]]:
    won = np.where(judged.same, 0.5, points(judged.old, judged.new, TIE))
    if judged.pairwise:
        return {"judge": _rate(won), "judge_probability": _rate(np.where(judged.same, 0.5, judged.new))}
    # Each question has its own probability; the judge was not asked about a question that both runs have.
    return {"judge": _rate(won), "judge_probability": pair_values(judged.old, judged.new)}


def _judge_counts(won: Values, judged: Judged) -> JudgeCounts:
    return {
        **count_wins(won),
        "same_question": int(judged.same.sum()),
        "faults": dict(Counter(judged.faults).most_common()),
        "position_bias": position_bias(position_sums(judged.orders)),
    }


def _figures(columns: dict[str, dict[str, Values]]) -> dict[str, Figure]:
    sides = ("old", "new", "difference")
    all_intervals = intervals({f"{name}.{side}": column[side] for name, column in columns.items() for side in sides})
    return {
        name: Figure(
            old=all_intervals[f"{name}.old"],
            new=all_intervals[f"{name}.new"],
            difference=all_intervals[f"{name}.difference"],
            abstracts=int((~np.isnan(column["difference"])).sum()),
        )
        for name, column in columns.items()
    }


def _both_asked(old: pa.Array, new: pa.Array) -> tuple[tuple[pa.Array, pa.Array], int]:
    """Return the questions of the abstracts that have one in both runs, and the number of these abstracts."""
    both = pc.and_(pc.is_valid(old), pc.is_valid(new))
    sides = old.filter(both), new.filter(both)
    return sides, len(sides[0])


def _number(column: Any) -> Values:
    """Return a column as numbers, NaN where it is null."""
    numbers = pc.cast(column, pa.float64())
    return numbers.to_numpy(zero_copy_only=False) if isinstance(numbers, pa.Array) else numbers.to_numpy()


def _reasons(asked: Asked) -> dict[str, int]:
    counts = asked.table["reason"].drop_null().value_counts()
    by_reason = Counter(dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))
    return dict(by_reason.most_common())
