"""Folders that earlier commits wrote.

ca469ee: corpus, documents, index, run, dataset, adapter. 6c57b83: index, run, dataset, of the same documents.
"""

import json
import shutil
from pathlib import Path

from kailin_ray.engines.models import model_identity
from tests.conftest import ENCODER, MODEL, ROOT

BEFORE = ROOT / "tests" / "data" / "ca469ee"
BEFORE_SHOWN = ROOT / "tests" / "data" / "6c57b83"
"""The last commit whose records do not have ``shown``; an engine made up the questions and answers."""


def copy_folders(out: Path, folders: Path = BEFORE) -> Path:
    """Copy the folders; their documents, model and encoder lie where this machine has them."""
    copy = shutil.copytree(folders, out)
    shutil.copytree(BEFORE / "documents", copy / "documents", dirs_exist_ok=True)
    manifest, run = copy / "index" / "manifest.json", copy / "run" / "run.json"
    index = json.loads(manifest.read_text())
    index["config"]["encoder"]["path"] = str(ENCODER)
    index["made_from"]["encoder"]["model"] = model_identity(str(ENCODER), None)
    manifest.write_text(json.dumps(index))
    made_from = json.loads(run.read_text())
    made_from["inputs"]["models"] = dict.fromkeys(made_from["inputs"]["models"], model_identity(str(MODEL), None))
    run.write_text(json.dumps(made_from))
    made = copy / "run" / "manifest.json"
    values = json.loads(made.read_text())
    values["config"]["model"]["path"] = str(MODEL)
    made.write_text(json.dumps(values))
    return copy
