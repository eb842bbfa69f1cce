"""What a configuration shows of itself."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray import config as configuration
from kailin_ray.config import DistillConfig, load, overridden, settings, without_secrets
from kailin_ray.errors import ConfigError
from kailin_ray.runtime.faults import cause
from tests.conftest import ROOT


def test_secrets_stay_out_of_what_is_written(config: DistillConfig) -> None:
    given = {
        "hf_token": "S3CR3T", "model_loader_extra_config": {"aws_secret_access_key": "S3CR3T", "api-key": ["S3CR3T"]},
        "db_password": "S3CR3T", "aws_access_key_id": "S3CR3T", "max_num_batched_tokens": 8, "seed": 1,
        "hf_overrides": {"pad_token_id": 3, "architectures": ["A"]}, "revision": "main",
    }  # fmt: skip
    model = dataclasses.replace(config.model, engine=given)
    changed = configuration.settings(dataclasses.replace(config, model=model))
    assert "S3CR3T" not in repr(changed)
    engine = changed["model"]["engine"]
    assert {name: engine[name] for name in ("max_num_batched_tokens", "seed", "hf_overrides", "revision")} == {
        name: given[name] for name in ("max_num_batched_tokens", "seed", "hf_overrides", "revision")
    }
    assert model.engine["hf_token"] == "S3CR3T"  # what runs has it


def test_passwords_in_urls_are_not_shown() -> None:
    given = {"address": "ray://me:hunter2@head:10001", "path": "s3://bucket/a@b"}
    assert without_secrets(given) == {"address": "ray://(secret)@head:10001", "path": "s3://bucket/a@b"}


def test_a_configuration_without_secrets_is_shown_as_it_is(config: DistillConfig) -> None:
    shown = configuration.settings(config)
    assert "(secret)" not in repr(shown)
    assert without_secrets(shown) == shown


@given(st.text(max_size=400) | st.text(alphabet="Error: \\n\\ud800x.([])Value", max_size=400))
def test_the_cause_of_any_traceback_is_one_line(traceback: str) -> None:
    found = cause(traceback)
    assert found
    assert "\n" not in found


def test_every_folder_of_the_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "kailin_ray").rglob("__init__.py")}
    assert set(listed) == {".".join(folder.parts) for folder in folders} | {"kailin_ray.conf"}


def test_what_a_saved_configuration_says_is_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAILIN_RAY_SECRET", "S3CR3T")
    saved = settings(load(DistillConfig, "distill", ["documents=d", "index=i", "mesh=m", "out=o"]))
    saved["model"]["path"] = "${oc.env:KAILIN_RAY_SECRET}"
    config = overridden(saved, ["model.answer.sampling.max_tokens=9", "index=${oc.env:KAILIN_RAY_SECRET}"])
    assert config.model.path == "${oc.env:KAILIN_RAY_SECRET}"
    assert config.model.answer.sampling.max_tokens == 9
    assert str(config.index) == "S3CR3T"  # a person's own words are


def test_a_run_from_before_a_key_can_be_replayed() -> None:
    saved = settings(load(DistillConfig, "distill", ["documents=d", "index=i", "mesh=m", "out=o"]))
    del saved["cluster"]["max_silent_minutes"]
    del saved["accept_updated_index"]
    assert overridden(saved, []).cluster.max_silent_minutes == 60
    assert overridden(saved, ["+cluster.max_silent_minutes=null"]).cluster.max_silent_minutes is None


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("model.answer.sampling.max_token=9", "model.answer.sampling.max_token: not a key of distill's configuration"),
        ("model.answr.path=x", "model.answr.path: not a key"),
        ("evaluation.by=rule", "evaluation.by: was renamed; give evaluation.method"),
        ("limit={", "limit={"),
    ],
)
def test_a_wrong_override_of_a_saved_configuration_is_refused(override: str, fault: str) -> None:
    saved = settings(load(DistillConfig, "distill", ["documents=d", "index=i", "mesh=m", "out=o"]))
    with pytest.raises(ConfigError, match=fault):
        overridden(saved, [override])
