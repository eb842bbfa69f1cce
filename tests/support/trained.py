"""Adapters with the manifest that ``train`` writes, without a training."""

from pathlib import Path
from typing import Any

from kailin_ray.engines.adapters import Adapter, AdapterManifest, Base, ExampleCounts
from kailin_ray.io.manifests import write_manifest


def adapter_manifest(**changes: Any) -> AdapterManifest:
    fields: dict[str, Any] = {
        "kind": "adapter", "task": "dpo", "worked_examples": False, "config": {}, "adapter": None, "data": "d1",
        "base": Base(name="base", identity="b1"), "examples": ExampleCounts(train=40, test=18, left_out={}),
        "steps": 20, "before": None, "after": None, "log": [], "seconds_of_last_session": 1.0, "versions": {},
    }  # fmt: skip
    return AdapterManifest(**(fields | changes))


def trained(folder: Path, **changes: Any) -> Adapter:
    """A folder with the manifest and PEFT's files, which are empty."""
    folder.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    write_manifest(folder, adapter_manifest(**changes))
    return Adapter.open(folder)
