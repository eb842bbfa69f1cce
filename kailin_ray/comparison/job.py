"""The ``compare`` command: two runs to a folder with a table, a picture and all figures.

::

    comparison/
      README.md          the table, and what can be said
      comparison.png     differences with their intervals
      comparison.json    every figure, and what was compared
      its manifest       what was compared, with what
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
"""Without these being equal, MeSH scores are of different kinds."""
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

    Raises ``ConfigError`` for runs that cannot be compared, ``CommandFailedError`` where the judge's engine died; its
    verdicts are kept then, and the same call goes on from there.
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
    """The judge's verdicts by kind of question."""
    from kailin_ray.comparison import judging  # here, as it needs Ray

    log = log_file(config.out)
    with one_line_faults(log):
        found = judging.judge_pairs(config, judge, list_pairs_to_judge(old, new), log)
    return by_kind(found, old, new, judge.form == "pairwise")


def check_runs(config: CompareConfig) -> RunPair:
    """The runs, opened. Raises ``ConfigError`` for what cannot be compared, that names the key."""
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists; remove it or choose another")
    old, new = Run.open(config.old, "old"), Run.open(config.new, "new")
    ids = old.manifest.documents.id, new.manifest.documents.id
    if ids[0] != ids[1]:
        raise ConfigError(f"new: {config.new} is of other documents ({ids[1]}) than {config.old} ({ids[0]})")
    before, now = flat(old.manifest.config), flat(new.manifest.config)
    differs = {key: (before.get(key), now.get(key)) for key in sorted(before | now) if before.get(key) != now.get(key)}
    scored = [key for key in RULE_KEYS if key in differs]
    if old.manifest.sha256["mesh"] != new.manifest.sha256["mesh"]:
        scored.append("mesh")
    if scored:
        raise ConfigError(
            f"new: {config.new} was scored with another {scored[0]} than {config.old}: their MeSH scores cannot be "
            "compared"
        )
    return RunPair(old, new, {key: both for key, both in differs.items() if _worth_telling(key)})


def _worth_telling(key: str) -> bool:
    """Of two runs' settings those that are neither where they ran nor which models they had."""
    of_model = key.startswith("model.") and key.endswith(_OF_MODELS)
    return key.partition(".")[0] not in FREE and not of_model


def judging_folder(out: Path) -> Path:
    """Where the judge's verdicts are until a comparison is made."""
    return out.absolute().with_name(f".{out.name}.judging")


def judge_identity(config: CompareConfig, runs: RunPair) -> JudgeIdentity:
    """Who judges, and all that verdicts depend on."""
    stages = [judge_stage(config.model)]
    return JudgeIdentity(
        form=config.evaluation.judge.form,
        model=models(config.model, stages, open_trained_adapters(config.model, stages))["judge"],
        prompts=prompts(config)[EVALUATION],
        runs={"old": manifest_checksum(runs.old.path), "new": manifest_checksum(runs.new.path)},
    )


def read_both(config: CompareConfig) -> tuple[Asked, Asked]:
    """What both runs asked about the abstracts to compare. Raises ``ConfigError`` if there are none."""
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
    """Measure, and make ``out``."""
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
    about = asdict(manifest)
    del about["config"]
    with atomic_folder(config.out.absolute()) as folder:
        (folder / "README.md").write_text(card(manifest, measures), encoding="utf-8")
        draw_differences(lines(measures.figures), manifest.abstracts, folder / "comparison.png")
        write_json(folder / "comparison.json", about | measures.as_json() | {"said": sentences})
        write_manifest(folder, manifest)
    return ComparisonResult(config.out, manifest, measures, sentences)


def _describe_run(run: Run) -> ComparedRun:
    made = run.manifest
    return ComparedRun(
        run=str(run.path),
        manifest_sha256=manifest_checksum(run.path),
        models=made.models,
        index=made.index.id,
        replays=len(made.replays),
        versions=made.versions,
    )
