"""`cluster/aws.yaml`: Ray's schema and checks, and what `ray up` does first, against a made-up AWS."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from tests.conftest import ROOT

Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    return yaml.safe_load((ROOT / "cluster" / "aws.yaml").read_text())


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A made-up AWS with the instance profiles that the file asks for; keys go to a folder of this test."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made-up")
    for name in ("AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        iam = boto3.client("iam")
        for name in ("kailin-ray-head", "kailin-ray-worker"):
            iam.create_instance_profile(InstanceProfileName=name)
        yield


def test_ray_takes_it(config: Config) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert sum(one["min_workers"] for one in prepared["available_node_types"].values()) <= prepared["max_workers"]
    # Else each machine would get what Ray's defaults add.
    assert prepared["head_setup_commands"] == prepared["worker_setup_commands"] == config["setup_commands"]
    assert "\nboto3==" in (ROOT / "requirements" / "dev.lock").read_text()  # which setup.sh installs


def test_a_misspelt_key_is_refused(config: Config) -> None:
    config["idle_timeout"] = config.pop("idle_timeout_minutes")
    with pytest.raises(Exception, match="idle_timeout"):
        validate_config(prepare_config(config))


@pytest.mark.usefixtures("aws")
def test_resources_are_those_of_the_machines(config: Config) -> None:
    """By what AWS says of its machines, of which moto has a copy."""
    ec2 = boto3.client("ec2", region_name=config["provider"]["region"])
    for name, kind in config["available_node_types"].items():
        (known,) = ec2.describe_instance_types(InstanceTypes=[kind["node_config"]["InstanceType"]])["InstanceTypes"]
        gpus = sum(gpu["Count"] for gpu in known.get("GpuInfo", {}).get("Gpus", []))
        assert kind["resources"]["GPU"] == gpus, name
        if name == config["head_node_type"]:
            assert kind["resources"]["CPU"] == 0
        else:
            assert kind["resources"]["CPU"] == known["VCpuInfo"]["DefaultVCpus"], name


@pytest.mark.usefixtures("aws")
def test_ray_up_s_steps_start_a_head_and_spot_workers(config: Config) -> None:
    ready = bootstrap_aws(prepare_config(config))
    ec2 = boto3.client("ec2", region_name=ready["provider"]["region"])
    for name, kind in ready["available_node_types"].items():
        request = dict(kind["node_config"])
        request["SubnetId"] = request.pop("SubnetIds")[0]
        (started,) = ec2.run_instances(MinCount=1, MaxCount=1, **request)["Instances"]
        assert started["InstanceType"] == config["available_node_types"][name]["node_config"]["InstanceType"]
        spot = kind["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}
        assert spot == (name != config["head_node_type"])
        profile = kind["node_config"]["IamInstanceProfile"]["Name"]
        assert profile == ("kailin-ray-worker" if spot else "kailin-ray-head")


def test_ray_starts_with_options_that_it_has_and_with_a_token(config: Config) -> None:
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        stop, begin = commands
        assert stop == "~/venv/bin/ray stop"
        environment, program, verb, *options = shlex.split(begin.partition("; ")[2])
        assert (environment, program, verb) == ("RAY_AUTH_MODE=token", "~/venv/bin/ray", "start")
        start.make_context("start", options)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "--num-gpus=0" in config["head_start_ray_commands"][1]


def test_the_set_up_is_the_repository_s(config: Config) -> None:
    (line,) = [line for line in config["setup_commands"] if "setup.sh" in line]
    script, python, venv, device = line.split()
    assert (ROOT / script.removeprefix("~/kailin_ray/")).stat().st_mode & 0o111
    assert (python, venv, device) == ("python3.11", "~/venv", "gpu")
    assert config["file_mounts"]["~/kailin_ray"] == "."
    assert not re.search(r"AKIA|secret_access|password", (ROOT / "cluster" / "aws.yaml").read_text())
