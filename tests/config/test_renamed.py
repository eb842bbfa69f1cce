import json
from typing import Any

import pytest

from kailin_ray.cli.main import read_config, run_command
from kailin_ray.config import SelectConfig, load, settings
from kailin_ray.config.renamed import RENAMED, complete_settings, rename_keys
from kailin_ray.config.run import DistillConfig
from kailin_ray.errors import ConfigError
from tests.conftest import ROOT

SILENCE = "cluster.max_silent_minutes"
LATER = (
    SILENCE, "max_fraction.invalid_record", "accept_updated_index",
    "max_fraction.answer_copies_example", "max_fraction.answer_copies_context",
    "max_fraction.answer_contradicts_decision", "max_fraction.answer_unseen_numbers",
)  # fmt: skip
"""Keys that came later; they have a default, so that saved settings without them stay valid."""

COMMANDS = {
    "duplicates.jaccard": "select", "subtree_major": "select", "merge": "train", "tolerate": "ingest",
    "to": "download", "what": "download", "assets_in": "bundle",
}  # fmt: skip


@pytest.mark.parametrize("key", RENAMED)
def test_an_old_key_is_refused_with_the_new_ones_name(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = COMMANDS.get(key, "select" if key.startswith("sample.") else "distill")
    for text in (f"{key}=1", f"+{key}=1", f"++{key}=1"):
        assert run_command([command, text]) == 2
        assert capsys.readouterr().err.startswith(f"kailin_ray: {key}: was renamed; give {RENAMED[key]}")
    new = [f"{RENAMED[key]}=1"]
    try:
        read_config(command, new)
    except ConfigError as refusal:  # the new key is known: something else is wrong
        assert "Could not override" not in str(refusal)


def test_a_group_given_whole_names_the_new_key() -> None:
    keys = ["documents=d", "index=i", "mesh=m", "out=o", "+evaluation.judge={form: pairwise}"]
    with pytest.raises(ConfigError, match=r"evaluation\.judge\.form: was renamed; give evaluation\.judge\.mode$"):
        load(DistillConfig, "distill", keys)


def test_old_values_have_new_names() -> None:
    with pytest.raises(ConfigError, match=r"cluster.stage_placement \(together for never, sequential for always\)"):
        load(DistillConfig, "distill", ["cluster.cut=never"])


@pytest.mark.parametrize(("old", "new"), [("auto", "auto"), ("never", "together"), ("always", "sequential")])
def test_saved_settings_get_todays_keys(old: str, new: str) -> None:
    saved = json.loads((ROOT / "tests" / "data" / "ca469ee" / "run" / "manifest.json").read_text())["config"]
    saved["cluster"]["cut"] = old
    before = json.dumps(saved)
    renamed = complete_settings(saved)
    assert json.dumps(saved) == before
    assert renamed["answer"] == {"shown": ["source", "contexts"], "max_unseen_numbers": None}
    today = settings(load(DistillConfig, "distill", ["documents=d", "index=i", "mesh=m", "out=o"]))
    assert key_names(today) - key_names(renamed) == {f"{key}." for key in LATER}
    assert key_names(renamed) <= key_names(today)
    assert renamed["cluster"]["stage_placement"] == new
    assert renamed["cluster"]["block_rows"] == saved["cluster"]["rows_per_block"]
    assert rename_keys(renamed) == complete_settings(renamed) == renamed


def test_saved_selections_get_todays_keys() -> None:
    made = json.loads((ROOT / "tests" / "data" / "ca469ee" / "documents" / "manifest.json").read_text())
    renamed = rename_keys(made["config"])
    today = settings(load(SelectConfig, "select", ["corpus=c", "out=o"]))
    assert key_names(today) - key_names(renamed) == {f"{SILENCE}."}
    assert key_names(renamed) <= key_names(today)
    assert renamed["dedup_threshold"] == rename_keys(made["made_from"])["dedup_threshold"] == 0.8


@pytest.mark.parametrize("odd", [None, [], "text", {}, {"evaluation": None}, {"cluster": {"nodes": {}}}])
def test_what_has_no_old_key_is_left_alone(odd: Any) -> None:
    assert rename_keys(odd) == odd


def key_names(group: Any, prefix: str = "") -> set[str]:
    """Dotted names of all keys but those of ``model``, whose groups are free."""
    if not isinstance(group, dict) or prefix == "model.":
        return {prefix}
    return {name for key, part in group.items() for name in key_names(part, f"{prefix}{key}.")}
