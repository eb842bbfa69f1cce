"""The ``compare`` command: two runs to a folder with a table, a picture and all figures."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.comparison.diversity import diversity
from kailin_ray.comparison.pairs import KINDS, Asked, read_asked, shared
from kailin_ray.comparison.report import card, draw
from kailin_ray.comparison.statistics import DRAWS, SEED, compared, win_rate
from kailin_ray.config import CompareConfig, ConfigError, settings
from kailin_ray.files import atomic_folder, read_manifest, write_json
from kailin_ray.manifest import versions


def opened(config: CompareConfig) -> tuple[Asked, Asked, dict[str, Any]]:
    """What both runs asked about the abstracts to compare, and what they are.

    Raises ``ConfigError``: a run is not complete, they are of other documents, or share no abstract.
    """
    if config.out.exists():
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    manifests = {key: read_manifest(getattr(config, key), "run", key, "distill") for key in ("old", "new")}
    ids = {key: made["documents"]["id"] for key, made in manifests.items()}
    if ids["old"] != ids["new"]:
        raise ConfigError(
            f"new: {config.new} was made of other documents than {config.old} (id {ids['new']}, {ids['old']})"
        )
    every = [read_asked(getattr(config, key)) for key in ("old", "new")]
    old, new = shared(every[0], every[1], config.held_out)
    if not len(old.pmids):
        both = len(np.intersect1d(every[0].pmids, every[1].pmids))
        raise ConfigError(
            f"new: {config.old} and {config.new} share {both:,} abstracts ({len(every[0].pmids):,} and "
            f"{len(every[1].pmids):,})"
            + (", of which none is held out; held_out=false takes all" if config.held_out else "")
        )
    about = {
        key: {"run": str(getattr(config, key)), "models": made["models"], "replays": len(made["replays"])}
        for key, made in manifests.items()
    }
    return old, new, {"documents": ids["old"], **about}


def compare(
    config: CompareConfig, old: Asked, new: Asked, about: dict[str, Any], verdicts: pa.Table | None
) -> dict[str, Any]:
    """Measure, write ``out``, and return all figures. ``verdicts``: of the judge, where one is asked."""
    found = {
        "kind": "comparison",
        **about,
        "held_out": config.held_out,
        "abstracts": len(old.pmids),
        "accepted": compared(old.accepted.astype(float), new.accepted.astype(float)),
        "reasons": {"old": _counted(old), "new": _counted(new)},
        "questions": {kind: _of_kind(kind, old, new) for kind in KINDS},
        "judge": _judged(old, new, verdicts) if verdicts is not None else None,
        "bootstrap": {"draws": DRAWS, "seed": SEED, "interval": 0.95},
        "config": settings(config),
        "versions": versions(),
    }
    with atomic_folder(config.out.absolute()) as folder:
        (folder / "README.md").write_text(card(found), encoding="utf-8")
        draw(found, folder / "comparison.png")
        write_json(folder / "comparison.json", found)
        write_json(folder / "manifest.json", found)
    return found


def _counted(asked: Asked) -> dict[str, int]:
    return dict(Counter(reason for reason in asked.reasons if reason).most_common())


def _of_kind(kind: str, old: Asked, new: Asked) -> dict[str, Any]:
    questions = [one.questions[kind] for one in (old, new)]
    there = [np.array([question is not None for question in some], float) for some in questions]
    words = [np.array([len(question.split()) if question else np.nan for question in some]) for some in questions]
    return {
        "asked": compared(*there),
        "mesh_score": compared(old.scores[kind], new.scores[kind]),
        "rule": win_rate(old.scores[kind], new.scores[kind], TIE),
        "words": compared(*words),
        "diversity": {
            name: diversity([question for question in some if question])
            for name, some in zip(("old", "new"), questions, strict=True)
        },
    }


def _judged(old: Asked, new: Asked, verdicts: pa.Table) -> dict[str, Any]:
    from kailin_ray.comparison.judging import by_kind

    found = {}
    for kind, (probabilities, orders) in by_kind(verdicts, old.pmids).items():
        same = np.array(
            [a is not None and a == b for a, b in zip(old.questions[kind], new.questions[kind], strict=True)]
        )
        probabilities = np.where(same, 0.5, probabilities)
        found[kind] = win_rate(np.full(len(probabilities), 0.5), probabilities, TIE) | {
            "probability": compared(np.full(len(probabilities), 0.5), probabilities)["new"],
            "same_question": int(same.sum()),
            "position_bias": position_bias(position_sums(orders)),
        }
    return found


def summary(out: Path, found: dict[str, Any]) -> str:
    """The table that a person reads."""
    return f"{out}: {found['abstracts']:,} abstracts\n" + card(found).partition("\n\n")[2].partition("\n![")[0]
