"""What a run is made from: ``run.json``, written first, which a run must match to be resumed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kailin_ray.agents import answer, evaluation, question
from kailin_ray.config import Agents, DistillConfig, Model, settings
from kailin_ray.corpus.changes import ORIGIN, find_changes
from kailin_ray.dataset.records import drop
from kailin_ray.dataset.run import UsedModel
from kailin_ray.distill.preflight import Inputs
from kailin_ray.distill.steps import later, step_changed
from kailin_ray.engines.adapters import Adapter
from kailin_ray.engines.models import model_identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, remove_folder, sha256, write_json
from kailin_ray.io.manifests import manifest_checksum, remove_manifest
from kailin_ray.planning.stages import AGENTS, QUESTION_AGENTS, Stage, make_stages
from kailin_ray.schema import ANSWER, ASKING, CARRIED, EVALUATION, RECORDS, Json

UPDATES = "documents_updates"
"""How many updates of its documents a run has seen; in ``run.json``."""
# What a run may change between two calls into one folder: where and how much, not what.
FREE = (
    "cluster", "limit", "out", "max_failed_fraction", "max_fraction", "max_hours", "grace_seconds", "documents",
    "index", "mesh", "from_run",
)  # fmt: skip


def models(model: Model, stages: Iterable[Stage], trained: Mapping[str, Adapter]) -> dict[str, UsedModel]:
    """The model of each agent of some stages. Raises ``ConfigError`` if an adapter is one of another model."""
    checksum = lru_cache(sha256)
    found: dict[str, UsedModel] = {}
    for stage in stages:
        for agent in stage.agents:
            path, revision = stage.engine.path, stage.engine.revision
            local, adapter = Path(path).is_dir(), getattr(model, agent).adapter
            identity = model_identity(path, revision, checksum)
            if agent in trained:
                trained[agent].check_base(agent, path, identity)
            found[agent] = UsedModel(
                name=Path(path).name if local else path,
                revision=revision,
                adapter=Path(adapter).name if adapter else None,
                identity=identity + (f"+{checksum(Path(adapter))}" if adapter else ""),
            )
    return found


@dataclass(frozen=True, kw_only=True)
class MadeFrom:
    """Checksums of what a run reads and says, and the models of its agents."""

    documents: str
    """Their id, as that of the index: they may be updated under a run."""
    index: str
    mesh: str
    models: dict[str, UsedModel]
    """With ``from``, those of its agents that do not work here did so there."""
    prompts: dict[str, str]
    """See ``prompts``."""
    schema: str
    source: str | None = None
    """Of the manifest of ``from``."""

    def as_json(self) -> Json:
        """The same for ``run.json``: which models they are, wherever they lie."""
        values = {name: value for name, value in vars(self).items() if name != "source"}
        values["models"] = {agent: model.identity for agent, model in self.models.items()}
        return values | ({"from": self.source} if self.source else {})


def identify(config: DistillConfig, opened: Inputs) -> MadeFrom:
    """Look at all that a run is made from."""
    found = models(config.model, make_stages(config), opened.trained)
    return MadeFrom(
        documents=opened.documents.manifest.id,
        index=opened.index.manifest.id,
        mesh=sha256(config.mesh),
        models=opened.source.manifest.models | found if opened.source else found,
        prompts=prompts(config),
        schema=hashlib.sha256(str(RECORDS).encode()).hexdigest(),
        source=manifest_checksum(opened.source.path) if opened.source else None,
    )


def prompts(config: Agents) -> dict[str, str]:
    """A checksum of what each step's agents are told, besides the abstract and what others wrote about it."""
    row, shown = {"title": "T", "abstract": "A"}, ("Q?", ["C"])
    asking = [getattr(config.model, agent) for agent in QUESTION_AGENTS]
    worked = config.model.judge.examples, config.model.answer.examples
    said = {
        ASKING: [question.messages(row, agent.persona, agent.examples) for agent in asking],
        EVALUATION: [
            evaluation.pairwise_messages(row, shown, shown, worked[0]),
            evaluation.pointwise_messages(row, shown, worked[0]),
        ],
        ANSWER: [answer.messages(row, *shown, worked[1]), answer.decision_messages(row, *shown, "A.", worked[1])],
    }
    return {step: hashlib.sha256(json.dumps(messages).encode()).hexdigest() for step, messages in said.items()}


def open_run(config: DistillConfig, opened: Inputs) -> tuple[MadeFrom, int]:
    """Start a run's folder, or go on with it; return what it is made from, and how many records were taken out.

    Of documents that were updated since, the records of those that changed or went are taken out. Raises
    ``ConfigError`` that names what differs if the folder holds a run made from something else.
    """
    found = identify(config, opened)
    matters = _matters(config, found)
    matters[UPDATES] = len(opened.documents.manifest.updates)
    if opened.source:
        _check_source(config, opened.source.path, matters)
    note = config.out / "run.json"
    if not note.exists() and config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise ConfigError(f"out: {config.out} exists and is not a run's folder; choose another")
    # A start that failed before its first row was worked binds nobody.
    if not any(path for folder in ("records", "parts/*") for path in config.out.glob(f"{folder}/*.parquet")):
        if note.exists() and read_json(note) != matters:
            # What another configuration's starts took is no cost of this run; what its own took is, in vain or not.
            remove_folder(config.out / "sessions")
        write_json(note, matters)
        return found, 0
    seen = _check_same(config, read_json(note), matters)
    if matters[UPDATES] == seen:
        return found, 0
    dropped = _drop_changed(config, opened, seen)
    write_json(note, matters)
    return found, dropped


def _check_same(config: DistillConfig, noted: Json, matters: Json) -> int:
    """The updates of its documents that a run has seen. Raises ``ConfigError`` if it was made from something else."""
    before, now = flat(noted), flat(matters)
    there = now.pop(UPDATES)
    seen: int = before.pop(UPDATES, there)  # a run of an earlier version had other documents anyway
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        key = changed[0]
        more = f", and {', '.join(changed[1:5])}" if changed[1:] else ""
        raise ConfigError(
            f"out: {config.out} holds a run with another {key} ({before.get(key)!r}, now {now.get(key)!r}){more}; "
            "choose a new out= to start another run"
        )
    if there < seen:
        raise ConfigError(
            f"documents: {config.documents} is at its update {there}, and {config.out} has seen {seen}: an older copy?"
        )
    return seen


def _drop_changed(config: DistillConfig, opened: Inputs, seen: int) -> int:
    """Take the records out whose documents were changed or deleted after the first ``seen`` updates; count them."""
    # A deletion alone leaves nothing to distil, and yet the run's counts are others.
    remove_manifest(config.out)
    pmids = find_changes(opened.documents, seen, [name for name in CARRIED.names if name not in ORIGIN])
    dropped = drop(config.out / "records", pmids)
    for folder in (config.out / "parts").glob("*"):
        drop(folder, pmids)
    return dropped


def _matters(config: DistillConfig, found: MadeFrom) -> Json:
    """All that makes a run what it is: ``found`` inputs, and settings."""
    matters = {key: value for key, value in settings(config).items() if key not in FREE}
    matters["inputs"] = found.as_json()
    # Which models and adapters they are, their identities say; where they lie may change.
    for one in (matters["model"], *(matters["model"][agent] for agent in AGENTS)):
        for place in ("path", "revision", "adapter"):
            one.pop(place, None)
    return matters


def step_changed_since(run: Path, config: DistillConfig, opened: Inputs) -> str | None:
    """The first step that would now be done otherwise than in ``run``."""
    changed = step_changed(flat(read_json(run / "run.json")), flat(_matters(config, identify(config, opened))))
    return changed[0] if changed else None


def _check_source(config: DistillConfig, source: Path, matters: Json) -> None:
    """Raise ``ConfigError`` if what ``from`` is to be taken from was made otherwise than this configuration says."""
    before, now = flat(read_json(source / "run.json")), flat(matters)
    if before["inputs.documents"] == now["inputs.documents"] and before.get(UPDATES) != now[UPDATES]:
        raise ConfigError(f"from: {source} has not seen the last updates of {config.documents}; distil into it first")
    changed = step_changed(before, now)
    if changed and changed[0] not in config.stages:
        key = changed[1]
        raise ConfigError(
            f"from: {source} was made with another {key} ({before[key]!r}, now {now[key]!r}), which concerns "
            f"the {changed[0]}; do it again with stages={list(later(changed[0]))}"
        )


def flat(value: Any, prefix: str = "") -> Json:
    """Nested settings as one level, by dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for name, part in value.items() for k, v in flat(part, f"{prefix}.{name}".lstrip(".")).items()}
