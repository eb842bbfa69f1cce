"""Folders that `train` made: opened, told from adapters of elsewhere, and refused."""

import json
import pickle
from pathlib import Path

import pytest

from kailin_ray.config.renamed import rename_keys
from kailin_ray.engines.adapters import Adapter, Base, find_trained
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.manifests import write_manifest
from kailin_ray.training.report import format_training
from tests.conftest import ROOT
from tests.support.trained import adapter_manifest, trained

OLD = ROOT / "tests" / "data" / "ca469ee" / "adapter"
"""As commit ca469ee wrote it, without a format version."""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    bias = {"rows": 9, "first": 0.7, "flipped": None}
    judge = {
        "abstracts": 9, "accuracy": 0.5, "interval": [None, 0.8], "accuracy_each_order": 0.5, "position_bias": bias,
    }  # fmt: skip
    figures = {"loss": 1.5, "rewards/accuracies": 0.75, "bare": judge}
    manifest = adapter_manifest(kind="model", before=figures, after=figures, log=[{"step": 1, "loss": 2.0}])
    write_manifest(tmp_path, manifest)
    opened = Adapter.open(tmp_path)
    assert opened.manifest == manifest
    assert pickle.loads(pickle.dumps(opened)) == opened
    assert read_json(tmp_path / "manifest.json")["after"] == figures


def test_a_folder_of_before_is_read_and_loses_nothing(tmp_path: Path) -> None:
    opened = Adapter.open(OLD)
    assert (opened.manifest.task, opened.manifest.steps, opened.manifest.examples.test) == ("dpo", 1, 1)
    assert "dpo on tiny: 1 examples, 1 held out, 1 steps" in format_training(opened)
    write_manifest(tmp_path, opened.manifest)
    old = read_json(OLD / "manifest.json")
    assert read_json(tmp_path / "manifest.json") == old | {"config": rename_keys(old["config"]), "format_version": 2}


def test_an_adapter_of_elsewhere_is_none_of_train_s(tmp_path: Path) -> None:
    assert find_trained(tmp_path, "model.judge.adapter") is None
    write_json(tmp_path / "manifest.json", {"kind": "their own"})
    assert find_trained(tmp_path, "model.judge.adapter") is None
    (tmp_path / "manifest.json").write_text("not JSON")
    assert find_trained(tmp_path, "model.judge.adapter") is None
    ours = trained(tmp_path / "ours")
    assert find_trained(tmp_path / "ours", "model.judge.adapter") == ours


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "run"}, "model.judge.adapter: .* holds run, not adapter or model"),
        ({"kind": "adapter", "format_version": 3}, "is of format version 3; this kailin_ray reads up to 2: upgrade it"),
        ({"kind": "adapter", "task": "dpo"}, "is damaged: "),
    ],
)
def test_other_folders_and_later_versions_are_refused(tmp_path: Path, values: object, message: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        Adapter.open(tmp_path, "model.judge.adapter")
    if values != {"kind": "run"}:
        with pytest.raises(ConfigError, match=message):
            find_trained(tmp_path, "model.judge.adapter")


def test_the_base_is_known_wherever_it_lies(tmp_path: Path) -> None:
    adapter = trained(tmp_path / "a", base=Base(name="small", identity="b1"))
    adapter.check_base("judge", "elsewhere/small", "b1")
    with pytest.raises(ConfigError, match=r"model.judge.adapter: .*/a was trained on small, not on large as it is now"):
        adapter.check_base("judge", "large", "b2")
