"""Keys that were renamed or added before the first release.

On a command line an old key is refused with the new one's name. Folders that were made with the old keys stay readable:
``rename_keys`` turns the settings that they hold into today's, and ``complete_settings`` also adds the keys that did
not exist when a run was made.
"""

from collections.abc import Sequence
from typing import Any

from kailin_ray.errors import ConfigError

RENAMED = {
    "evaluation.by": "evaluation.method",
    "evaluation.judge.form": "evaluation.judge.mode",
    "cluster.cut": "cluster.stage_placement",
    "cluster.rows_in_flight": "cluster.max_concurrent_rows",
    "cluster.rows_per_block": "cluster.block_rows",
    "sample.num": "sample.size",
    "sample.by": "sample.stratify_by",
    "sample.major": "sample.major_only",
    "sample.power": "sample.alpha",
    "retrieval.jaccard": "retrieval.dedup_threshold",
    "duplicates.jaccard": "dedup_threshold",
    "subtree_major": "subtree_major_only",
    "merge": "merge_adapter",
    "tolerate": "tolerate_damaged",
    "to": "out",
    "what": "folders",
    "assets_in": "assets_dir",
}
"""Today's name of each old key."""
RENAMED_VALUES = {"cluster.stage_placement": {"never": "together", "always": "sequential"}}
"""Today's values of a key, by the old ones."""
ADDED = {"answer.shown": ["source", "contexts"], "answer.max_unseen_numbers": None}
"""Keys of a run that earlier versions did not have, with the value that says what they did."""


def refuse_renamed(overrides: Sequence[str]) -> None:
    """Raise ``ConfigError`` for an override (``key=value``) of an old key."""
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key in RENAMED:
            raise ConfigError(f"{key}: was renamed; give {RENAMED[key]}{_values(RENAMED[key])}")


def _values(key: str) -> str:
    values = RENAMED_VALUES.get(key, {})
    return f" ({', '.join(f'{new} for {old}' for old, new in values.items())})" if values else ""


def rename_keys(settings: Any) -> Any:
    """The same settings, with today's keys and values. Gives back what has none of the old keys as it is."""
    if not isinstance(settings, dict):
        return settings
    renamed = _copy(settings)
    for old, new in RENAMED.items():
        *groups, last = old.split(".")
        holder = _find(renamed, groups)
        if holder is None or last not in holder:
            continue
        value = holder.pop(last)
        if groups and not holder:
            _find(renamed, groups[:-1]).pop(groups[-1])
        *groups, last = new.split(".")
        _find(renamed, groups)[last] = RENAMED_VALUES.get(new, {}).get(value, value)
    return renamed


def complete_settings(settings: Any) -> Any:
    """The settings of a run, with today's keys; see ``rename_keys`` and ``ADDED``."""
    completed = rename_keys(settings)
    if isinstance(completed, dict):
        for key, value in ADDED.items():
            group, _, name = key.partition(".")
            completed.setdefault(group, {}).setdefault(name, value)
    return completed


def _copy(value: Any) -> Any:
    return {key: _copy(part) for key, part in value.items()} if isinstance(value, dict) else value


def _find(settings: Any, groups: Sequence[str]) -> Any:
    """The group of settings under a path; None where there is none."""
    for group in groups:
        settings = settings.get(group)
        if not isinstance(settings, dict):
            return None
    return settings
