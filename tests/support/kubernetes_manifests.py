"""Rendering and validating what `cluster/kubernetes` applies."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from jsonschema.protocols import Validator
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from tests.conftest import ROOT

KUBERNETES = ROOT / "cluster" / "kubernetes"
VERSION = "1.37"
"""Of Kubernetes, whose own schemas are asked; unknown fields are refused."""
TRANSCRIBED = Path(__file__).with_name("kuberay_v1.json")

Manifest = dict[str, Any]


def rendered(folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k`` would send."""
    return [manifest for manifest in yaml.safe_load_all(_text(folder)) if manifest]


@cache
def _text(folder: Path) -> str:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def validate(manifest: Manifest) -> None:
    """Raise ``jsonschema.ValidationError`` for what the API server would refuse or drop."""
    group = manifest["apiVersion"].partition("/")[0]
    if group not in ("ray.io", "monitoring.coreos.com"):
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        return
    _transcribed(manifest["kind"]).validate(manifest)
    if group == "ray.io" and (folder := os.environ.get("KUBERAY_CRDS")):
        crd(Path(folder), manifest["kind"]).validate(manifest)


@cache
def _transcribed(kind: str) -> Validator:
    definitions = schema_contents(f"kubernetes-json-schema/v{VERSION}.0-local-strict/_definitions.json", VERSION)
    schema = {"$ref": f"#/$defs/{kind}", "$defs": json.loads(TRANSCRIBED.read_text())["$defs"]}
    return jsonschema.Draft202012Validator(schema, registry=Resource.from_contents(definitions) @ Registry())


def crd(folder: Path, kind: str) -> Validator:
    """A validator from KubeRay's own files (helm-chart/kuberay-operator/crds), which are too large to keep here."""
    definition = yaml.safe_load((folder / f"ray.io_{kind.lower()}s.yaml").read_text())
    (version,) = (one for one in definition["spec"]["versions"] if one["name"] == "v1")
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def closed(schema: Any) -> Any:
    """The schema without room for unknown fields, which the API server drops in silence."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        inner["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            inner.setdefault("additionalProperties", False)
    return inner
