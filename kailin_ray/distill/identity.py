"""The inputs of a run: ``run.json``, which is written first. A run is resumed only if its inputs match this file."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kailin_ray.config import Agents, DistillConfig, Model, settings
from kailin_ray.config.renamed import complete_settings
from kailin_ray.corpus.changes import ORIGIN, find_changes
from kailin_ray.dataset.records import drop
from kailin_ray.dataset.run import UsedModel
from kailin_ray.distill.preflight import Inputs, sample_prompts
from kailin_ray.distill.steps import later, phases_folder, step_changed
from kailin_ray.engines.adapters import Adapter
from kailin_ray.engines.models import model_identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, remove_folder, sha256, write_json
from kailin_ray.io.manifests import manifest_checksum, remove_manifest
from kailin_ray.planning.stages import AGENTS, QUESTION_AGENTS, Stage, make_stages
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.schema import ANSWER, ASKING, CARRIED, EVALUATION, RECORDS_LAYOUT, Json

UPDATES = "documents_updates"
"""Key in ``run.json``: the number of updates of its documents that a run has seen."""
INDEXES = "index_versions"
"""Key in ``run.json``: the versions of the index that records have contexts of, in order (see ``index_version``)."""
UNKNOWN: Json = {"updates": None, "manifest": None}
# Settings that may change between two calls with the same ``out``: where and how much, not what.
FREE = (
    "cluster", "limit", "out", "max_failed_fraction", "max_fraction", "max_hours", "grace_seconds", "documents",
    "index", "mesh", "from_run", "accept_updated_index",
)  # fmt: skip


def models(model: Model, stages: Iterable[Stage], trained: Mapping[str, Adapter]) -> dict[str, UsedModel]:
    """Return the models of the stages' agents. Raises ``ConfigError`` if an adapter was trained on another model."""
    checksum = lru_cache(sha256)
    by_agent: dict[str, UsedModel] = {}
    for stage in stages:
        for agent in stage.agents:
            path, revision = stage.engine.path, stage.engine.revision
            is_local, adapter = Path(path).is_dir(), getattr(model, agent).adapter
            identity = model_identity(path, revision, checksum)
            if agent in trained:
                trained[agent].check_base(agent, path, identity)
            by_agent[agent] = UsedModel(
                name=Path(path).name if is_local else path,
                revision=revision,
                adapter=Path(adapter).name if adapter else None,
                identity=identity + (f"+{checksum(Path(adapter))}" if adapter else ""),
            )
    return by_agent


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """Ids and checksums of a run's inputs, prompts and columns, and the models of its agents."""

    documents: str
    """Id of the documents; ``index`` is an id too. Neither is a checksum, as both may be updated between sessions."""
    index: str
    mesh: str
    models: dict[str, UsedModel]
    """The models by agent. With ``from``, agents without a stage in this run have the models of that run."""
    prompts: dict[str, str]
    """See ``prompts``."""
    schema: str
    source: str | None = None
    """Checksum of the manifest of ``from``."""

    def as_json(self) -> Json:
        """Return the values for ``run.json``. Models are given by their identity, whatever their path."""
        values = {name: value for name, value in vars(self).items() if name != "source"}
        values["models"] = {agent: model.identity for agent, model in self.models.items()}
        return values | ({"from": self.source} if self.source else {})


def identify(config: DistillConfig, opened: Inputs) -> MadeFrom:
    """Return the identities of all inputs of a run."""
    used = models(config.model, make_stages(config), opened.trained)
    return MadeFrom(
        documents=opened.documents.manifest.id,
        index=opened.index.manifest.id,
        mesh=sha256(config.mesh),
        models=opened.source.manifest.models | used if opened.source else used,
        prompts=prompts(config),
        schema=RECORDS_LAYOUT,
        source=manifest_checksum(opened.source.path) if opened.source else None,
    )


def prompts(config: Agents) -> dict[str, str]:
    """Return a checksum of the fixed text of each step's prompts, by step.

    It is computed with a constant abstract, question, context and answer, so it does not depend on any document.
    """
    by_step = {
        ASKING: [messages for agent in QUESTION_AGENTS for messages in sample_prompts(config, agent)],
        EVALUATION: sample_prompts(config, "judge"),
        ANSWER: sample_prompts(config, "answer"),
    }
    return {step: hashlib.sha256(json.dumps(messages).encode()).hexdigest() for step, messages in by_step.items()}


def open_run(config: DistillConfig, opened: Inputs) -> tuple[MadeFrom, int]:
    """Start a run's folder, or resume it; return its inputs, and the number of records that were removed.

    If documents were changed or deleted since the last session, their records are removed. Raises ``ConfigError`` that
    names the difference if the folder holds a run with other inputs.
    """
    made_from = identify(config, opened)
    matters = _matters(config, made_from)
    matters[UPDATES] = len(opened.documents.manifest.updates)
    if opened.source:
        _check_source(config, opened.source.path, matters)
    note = config.out / "run.json"
    if not note.exists() and config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not a run's folder; choose another")
    # Without any record, the folder may start again with other inputs: an earlier start failed before its first row.
    if not any([*config.out.glob("records/*.parquet"), *phases_folder(config.out).glob("*/*.parquet")]):
        if note.exists() and _without_versions(_read_note(config.out)) != matters:
            # Failed starts with another configuration are no cost of this run. Failed starts with this one are.
            remove_folder(config.out / "sessions")
        # Rows that keep their questions also keep the contexts of the run that they come from.
        source = opened.source.path if opened.source and ASKING not in config.stages else None
        write_json(note, matters | {INDEXES: index_versions(source) if source else [index_version(opened.index)]})
        return made_from, 0
    seen = _check_same(config, _without_versions(_read_note(config.out)), matters)
    if matters[UPDATES] == seen:
        return made_from, 0
    check_index(config.out, config, opened)  # before any record is removed
    num_dropped = _drop_changed(config, opened, seen)
    write_json(note, matters | {INDEXES: index_versions(config.out)})
    return made_from, num_dropped


def index_version(index: Index) -> Json:
    """Return what tells a version of an index from others: the number of its updates, and its manifest's checksum."""
    return {"updates": len(index.manifest.updates), "manifest": manifest_checksum(index.path)[:16]}


def index_versions(run: Path) -> list[Json]:
    """Return the versions of the index that a run's records have contexts of; none if an earlier version made it."""
    versions: list[Json] = _read_note(run).get(INDEXES, [])
    return versions


def check_index(run: Path, config: DistillConfig, opened: Inputs) -> None:
    """Raise ``ConfigError`` if new contexts would come from another version of the index than those of the records.

    ``config.accept_updated_index`` accepts this.
    """
    versions, now = index_versions(run), index_version(opened.index)
    if ASKING not in config.stages or config.accept_updated_index or not versions or versions[-1] == now:
        return
    raise ConfigError(
        f"index: {config.index} is at update {now['updates']}, but records of {run} have contexts of another version "
        f"(update {versions[-1]['updates']}); accept_updated_index=true keeps them and retrieves from the new version, "
        "or choose a new out="
    )


def note_index(run: Path, config: DistillConfig, opened: Inputs) -> None:
    """Note that records of a run have contexts of the present version of the index."""
    # Records of a run that an earlier version of kailin_ray made have contexts of an unknown version.
    versions, now = index_versions(run) or [UNKNOWN], index_version(opened.index)
    if ASKING in config.stages and versions[-1] != now:
        write_json(run / "run.json", _read_note(run) | {INDEXES: [*versions, now]})


def _without_versions(note: Json) -> Json:
    return {key: value for key, value in note.items() if key != INDEXES}


def _read_note(run: Path) -> Json:
    """Return the content of a run's ``run.json``, with today's key names."""
    try:
        note = complete_settings(read_json(run / "run.json"))
    except ConfigError as error:
        raise ConfigError(
            f"out: {error}; only this file says with which settings the records of {run} were made: restore it from a "
            "copy, or choose a new out= to start again"
        ) from error
    if not isinstance(note, dict):
        raise ConfigError(f"out: {run / 'run.json'} is damaged: it holds no settings; choose a new out= to start again")
    return note


def _check_same(config: DistillConfig, noted: Json, matters: Json) -> int:
    """Return the number of document updates that a run has seen. Raises ``ConfigError`` if its inputs differ."""
    before, now = flat(noted), flat(matters)
    num_updates = now.pop(UPDATES)
    seen: int = before.pop(UPDATES, num_updates)  # a run of an earlier version had other documents anyway
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        more = f", and {', '.join(changed[1:5])}" if changed[1:] else ""
        raise ConfigError(
            f"out: {config.out} holds a run with another {key} ({before.get(key)!r}, now {now.get(key)!r}){more}; "
            "choose a new out= to start another run"
        )
    if num_updates < seen:
        raise ConfigError(
            f"documents: {config.documents} is at update {num_updates}, but {config.out} has seen update {seen}; is it "
            "an older copy?"
        )
    return seen


def _drop_changed(config: DistillConfig, opened: Inputs, seen: int) -> int:
    """Remove records whose documents were changed or deleted after the first ``seen`` updates; return their number."""
    # If documents were only deleted, nothing is left to distil, but the counts in the manifest must be updated.
    remove_manifest(config.out)
    pmids = find_changes(opened.documents, seen, [name for name in CARRIED.names if name not in ORIGIN])
    num_dropped = drop(config.out / "records", pmids)
    for folder in phases_folder(config.out).glob("*"):
        drop(folder, pmids)
    return num_dropped


def _matters(config: DistillConfig, made_from: MadeFrom) -> Json:
    """Return everything that a resumed run must have in common with its folder: its inputs, and the settings."""
    matters = {key: value for key, value in settings(config).items() if key not in FREE}
    matters["inputs"] = made_from.as_json()
    # The inputs identify the models and adapters by checksum or revision, so their paths may change.
    for model in (matters["model"], *(matters["model"][agent] for agent in AGENTS)):
        for key in ("path", "revision", "adapter"):
            model.pop(key, None)
    return matters


def step_changed_since(run: Path, config: DistillConfig, opened: Inputs) -> str | None:
    """Return the first step whose inputs or settings differ from those of ``run``; None if there is none."""
    changed = step_changed(flat(_read_note(run)), flat(_matters(config, identify(config, opened))))
    return changed[0] if changed else None


def _check_source(config: DistillConfig, source: Path, matters: Json) -> None:
    """Raise ``ConfigError`` if ``source``, the run of ``from``, differs from this configuration in a step it reuses."""
    before, now = flat(_read_note(source)), flat(matters)
    if before["inputs.documents"] == now["inputs.documents"] and before.get(UPDATES) != now[UPDATES]:
        raise ConfigError(f"from: {source} lacks the last updates of {config.documents}; resume that run first")
    changed = step_changed(before, now)
    if changed and changed[0] not in config.stages:
        key = changed[1]
        raise ConfigError(
            f"from: {source} was made with another {key} ({before[key]!r}, now {now[key]!r}), which affects "
            f"the {changed[0]} step; repeat it with stages={list(later(changed[0]))}"
        )


def flat(value: Any, prefix: str = "") -> Json:
    """Return nested settings as a flat dictionary with dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, child in value.items() for k, v in flat(child, f"{prefix}.{name}".lstrip(".")).items()}
