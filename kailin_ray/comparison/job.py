"""The ``compare`` command: compare two runs and write a folder with a table, a plot and all figures.

::

    comparison/
      README.md          the table and its conclusions
      comparison.png     differences with their intervals
      comparison.json    every figure, and what was compared
      its manifest       what was compared, and how
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kailin_ray.comparison.diversity import PARTS
from kailin_ray.comparison.manifest import ComparedRun, ComparisonManifest, IntervalMethod, JudgeIdentity
from kailin_ray.comparison.measures import measure
from kailin_ray.comparison.pairs import Asked, find_shared_pmids, read_asked
from kailin_ray.comparison.plots import draw_differences
from kailin_ray.comparison.report import ComparisonResult, card, lines, summarize
from kailin_ray.comparison.statistics import DRAWS, SEED
from kailin_ray.comparison.verdicts import Judged, by_kind, list_pairs_to_judge
from kailin_ray.config import CompareConfig, settings
from kailin_ray.dataset.run import Run
from kailin_ray.distill.identity import FREE, flat, models, prompts
from kailin_ray.distill.preflight import check_judge, open_trained_adapters
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import atomic_folder, remove_folder, write_json
from kailin_ray.io.locks import hold_lock
from kailin_ray.io.manifests import manifest_checksum, write_manifest
from kailin_ray.io.storage import check_access, log_file
from kailin_ray.planning.stages import judge_stage
from kailin_ray.runtime.faults import one_line_faults
from kailin_ray.schema import EVALUATION
from kailin_ray.versions import versions

RULE_KEYS = ("evaluation.measure", "evaluation.aggregate")
"""If these differ, the MeSH scores of the runs cannot be compared."""
_OF_MODELS = (".path", ".revision", ".adapter")


@dataclass(frozen=True)
class RunPair:
    """Two runs that can be compared."""

    old: Run
    new: Run
    differs: dict[str, tuple[Any, Any]]
    """See ``ComparisonManifest``."""


def compare(config: CompareConfig) -> ComparisonResult:
    """Compare two runs on the abstracts that they share, and write ``config.out``.

    Raises ``ConfigError`` for runs that cannot be compared, ``CommandFailedError`` if the judge's engine died. Its
    verdicts are then kept, and the same call resumes from there.
    """
    for key in ("old", "new"):
        check_access(key, getattr(config, key))
    runs = check_runs(config)
    if config.judge:
        config = check_judge(config)
    with hold_lock(config.out.absolute()):
        old, new = read_both(config)
        judge = judge_identity(config, runs) if config.judge else None
        result = write_comparison(
            config, runs, old, new, judge, _judge_by_kind(config, judge, old, new) if judge else None
        )
        remove_folder(judging_folder(config.out))
    return result


def _judge_by_kind(config: CompareConfig, judge: JudgeIdentity, old: Asked, new: Asked) -> dict[str, Judged]:
    """Return the judge's verdicts by kind of question."""
    from kailin_ray.comparison import judging  # imported here, as it needs Ray

    log = log_file(config.out)
    with one_line_faults(log):
        verdicts = judging.judge_pairs(config, judge, list_pairs_to_judge(old, new), log)
    return by_kind(verdicts, old, new, judge.mode == "pairwise")


def check_runs(config: CompareConfig) -> RunPair:
    """Open the runs. Raises ``ConfigError`` that names the key if they cannot be compared."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    old, new = Run.open(config.old, "old"), Run.open(config.new, "new")
    ids = old.manifest.documents.id, new.manifest.documents.id
    if ids[0] != ids[1]:
        raise ConfigError(f"new: {config.new} has other documents ({ids[1]}) than {config.old} ({ids[0]})")
    before, now = flat(old.manifest.config), flat(new.manifest.config)
    differs = {key: (before.get(key), now.get(key)) for key in sorted(before | now) if before.get(key) != now.get(key)}
    score_keys = [key for key in RULE_KEYS if key in differs]
    if old.manifest.sha256["mesh"] != new.manifest.sha256["mesh"]:
        score_keys.append("mesh")
    if score_keys:
        raise ConfigError(
            f"new: {config.new} was scored with another {score_keys[0]} than {config.old}: their MeSH scores cannot be "
            "compared"
        )
    return RunPair(old, new, {key: values for key, values in differs.items() if _worth_telling(key)})


def _worth_telling(key: str) -> bool:
    """Whether a setting is neither about where a run ran nor about its models."""
    of_model = key.startswith("model.") and key.endswith(_OF_MODELS)
    return key.partition(".")[0] not in FREE and not of_model


def judging_folder(out: Path) -> Path:
    """Return the folder of the judge's verdicts until the comparison is complete."""
    return out.absolute().with_name(f".{out.name}.judging")


def judge_identity(config: CompareConfig, runs: RunPair) -> JudgeIdentity:
    """Return the judge and all that its verdicts depend on."""
    stages = [judge_stage(config.model)]
    return JudgeIdentity(
        mode=config.evaluation.judge.mode,
        model=models(config.model, stages, open_trained_adapters(config.model, stages))["judge"],
        prompts=prompts(config)[EVALUATION],
        runs={"old": manifest_checksum(runs.old.path), "new": manifest_checksum(runs.new.path)},
    )


def read_both(config: CompareConfig) -> tuple[Asked, Asked]:
    """Read what both runs asked about the abstracts to compare. Raises ``ConfigError`` if they share none."""
    pmids = find_shared_pmids(config.old, config.new, config.held_out)
    return read_asked(config.old, pmids), read_asked(config.new, pmids)


def write_comparison(
    config: CompareConfig,
    runs: RunPair,
    old: Asked,
    new: Asked,
    judge: JudgeIdentity | None,
    judged: Mapping[str, Judged] | None,
) -> ComparisonResult:
    """Measure, and write ``out``."""
    manifest = ComparisonManifest(
        documents=runs.old.manifest.documents.id,
        held_out=config.held_out,
        old=_describe_run(runs.old),
        new=_describe_run(runs.new),
        differs=runs.differs,
        abstracts=len(old.pmids),
        judge=judge,
        intervals=IntervalMethod(level=0.95, seed=SEED, bootstrap_draws=DRAWS, diversity_draws=PARTS),
        versions=versions(),
        config=settings(config),
    )
    measures = measure(old, new, judged)
    sentences = summarize(measures.figures)
    facts = asdict(manifest)
    del facts["config"]
    with atomic_folder(config.out.absolute()) as folder:
        (folder / "README.md").write_text(card(manifest, measures), encoding="utf-8")
        draw_differences(lines(measures.figures), manifest.abstracts, folder / "comparison.png")
        write_json(folder / "comparison.json", facts | measures.as_json() | {"said": sentences})
        write_manifest(folder, manifest)
    return ComparisonResult(config.out, manifest, measures, sentences)


def _describe_run(run: Run) -> ComparedRun:
    manifest = run.manifest
    return ComparedRun(
        run=str(run.path),
        manifest_sha256=manifest_checksum(run.path),
        models=manifest.models,
        index=manifest.index.id,
        replays=len(manifest.replays),
        versions=manifest.versions,
    )
