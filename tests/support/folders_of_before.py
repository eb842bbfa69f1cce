"""Folders that commit ca469ee wrote: corpus, documents, index, run, dataset, adapter."""

import json
import shutil
from pathlib import Path

from kailin_ray.engines.models import model_identity
from tests.conftest import ENCODER, MODEL, ROOT

BEFORE = ROOT / "tests" / "data" / "ca469ee"


def copy_folders(out: Path) -> Path:
    """Copy the folders; their model and encoder lie where this machine has them."""
    copy = shutil.copytree(BEFORE, out)
    manifest, run = copy / "index" / "manifest.json", copy / "run" / "run.json"
    index = json.loads(manifest.read_text())
    index["config"]["encoder"]["path"] = str(ENCODER)
    index["made_from"]["encoder"]["model"] = model_identity(str(ENCODER), None)
    manifest.write_text(json.dumps(index))
    made_from = json.loads(run.read_text())
    made_from["inputs"]["models"] = dict.fromkeys(made_from["inputs"]["models"], model_identity(str(MODEL), None))
    run.write_text(json.dumps(made_from))
    return copy
