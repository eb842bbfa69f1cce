"""The ``compare`` command: two runs to a folder with a table, a picture and all figures.

::

    comparison/
      README.md          the table, and what can be said
      comparison.png     differences with their intervals
      comparison.json    every figure, and what was compared
      manifest.json      what was compared, with what
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kailin_ray.comparison.diversity import PARTS
from kailin_ray.comparison.measures import measured
from kailin_ray.comparison.pairs import Asked, read_asked, shared
from kailin_ray.comparison.plots import draw_differences
from kailin_ray.comparison.report import card, lines, said, table
from kailin_ray.comparison.statistics import DRAWS, SEED
from kailin_ray.comparison.verdicts import Judged
from kailin_ray.config import CompareConfig, settings
from kailin_ray.distill.identity import FREE, flat, models, prompts
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_folder, read_manifest, sha256, write_json
from kailin_ray.planning.stages import judge_stage
from kailin_ray.schema import EVALUATION
from kailin_ray.versions import versions

RULE_KEYS = ("evaluation.measure", "evaluation.aggregate")
"""Without these being equal, MeSH scores are of different kinds."""
_OF_MODELS = (".path", ".revision", ".adapter")


def check_runs(config: CompareConfig) -> dict[str, Any]:
    """What is compared with what. Raises ``ConfigError`` for what cannot be, that names the key."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    made = {side: read_manifest(getattr(config, side), "run", side, "distill") for side in ("old", "new")}
    ids = [made[side]["documents"]["id"] for side in ("old", "new")]
    if ids[0] != ids[1]:
        raise ConfigError(f"new: {config.new} is of other documents ({ids[1]}) than {config.old} ({ids[0]})")
    before, now = (flat(made[side]["config"]) for side in ("old", "new"))
    differs = {key: [before.get(key), now.get(key)] for key in sorted(before | now) if before.get(key) != now.get(key)}
    scored = [key for key in RULE_KEYS if key in differs]
    if made["old"]["sha256"]["mesh"] != made["new"]["sha256"]["mesh"]:
        scored.append("mesh")
    if scored:
        raise ConfigError(
            f"new: {config.new} was scored with another {scored[0]} than {config.old}: their MeSH scores cannot be "
            "compared"
        )
    about: dict[str, Any] = {"kind": "comparison", "documents": ids[0], "held_out": config.held_out}
    for side in ("old", "new"):
        run = getattr(config, side)
        about[side] = {
            "run": str(run),
            "manifest_sha256": sha256(run / "manifest.json"),
            "models": made[side]["models"],
            "index": made[side]["index"]["id"],
            "replays": len(made[side]["replays"]),
            "versions": made[side]["versions"],
        }
    return about | {"differs": {key: both for key, both in differs.items() if _worth_telling(key)}}


def _worth_telling(key: str) -> bool:
    """Of two runs' settings those that are neither where they ran nor which models they had."""
    of_model = key.startswith("model.") and key.endswith(_OF_MODELS)
    return key.partition(".")[0] not in FREE and not of_model


def judging_folder(out: Path) -> Path:
    """Where the judge's verdicts are until a comparison is made."""
    return out.absolute().with_name(f".{out.name}.judging")


def asked_of_judge(config: CompareConfig, about: dict[str, Any]) -> dict[str, Any]:
    """Who judges, and all that verdicts depend on."""
    model = models(config.model, [judge_stage(config.model)])["judge"]
    return {
        "form": config.evaluation.judge.form,
        "model": model,
        "prompts": prompts(config)[EVALUATION],
        "runs": {side: about[side]["manifest_sha256"] for side in ("old", "new")},
    }


def read_both(config: CompareConfig) -> tuple[Asked, Asked]:
    """What both runs asked about the abstracts to compare. Raises ``ConfigError`` if there are none."""
    pmids = shared(config.old, config.new, config.held_out)
    return read_asked(config.old, pmids), read_asked(config.new, pmids)


def write_comparison(
    config: CompareConfig,
    about: dict[str, Any],
    old: Asked,
    new: Asked,
    judge: dict[str, Any] | None,
    judged: Mapping[str, Judged] | None,
) -> dict[str, Any]:
    """Measure, make ``out``, and return all figures."""
    about = {
        **about,
        "abstracts": len(old.pmids),
        "judge": judge,
        "intervals": {"level": 0.95, "seed": SEED, "bootstrap_draws": DRAWS, "diversity_draws": PARTS},
        "versions": versions(),
    }
    found = about | measured(old, new, judged)
    found["said"] = said(found)
    with atomic_folder(config.out.absolute()) as folder:
        (folder / "README.md").write_text(card(found), encoding="utf-8")
        draw_differences(lines(found), found["abstracts"], folder / "comparison.png")
        write_json(folder / "comparison.json", found)
        write_json(folder / "manifest.json", about | {"config": settings(config)})
    return found


def summary(out: Path, found: dict[str, Any]) -> str:
    """What the command prints."""
    which = "held out" if found["held_out"] else "held out or not"
    return "\n".join([f"{out}: {found['abstracts']:,} abstracts, {which}", "", table(found), "", *said(found)])
