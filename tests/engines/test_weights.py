"""Weights that are missing or not whole are refused before anything starts."""

import json
from pathlib import Path

import pytest

from kailin_ray.engines.models import check_files
from kailin_ray.errors import ConfigError
from tests.support.weights import safetensors

WHOLE = safetensors(b"1234")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 269060552\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose weights are in two files, with the list of them."""
    folder = tmp_path / "model"
    folder.mkdir()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names:
        (folder / name).write_bytes(WHOLE)
    index = {"metadata": {"total_size": 8}, "weight_map": dict(zip("ab", names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_whole_weights_pass(model: Path) -> None:
    check_files("model.path", str(model))
    (model.parent / "link").symlink_to(model)
    check_files("model.path", f"{model.parent}/link/")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "model.safetensors.index.json lists 2 files, and 1 are missing, such as model-00002-of-00002"),
        (POINTER, "model-00002-of-00002.safetensors is a Git LFS pointer; run `git lfs pull`"),
        (WHOLE[:-1], f"is cut off: {len(WHOLE) - 1} of {len(WHOLE)} bytes"),
        (WHOLE[:20], "is not safetensors, or is cut off"),
        (b"", "is not safetensors, or is cut off"),
        (b"<!DOCTYPE html>", "is not safetensors, or is cut off"),
        ((2).to_bytes(8, "little") + b"[]", "is not safetensors"),
    ],
)
def test_weights_that_are_not_whole_are_refused(model: Path, content: bytes | None, fault: str) -> None:
    """As after a download that stopped, or a clone without Git LFS."""
    file = model / "model-00002-of-00002.safetensors"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^model.path: .*/model: .*{fault}.*; download the model again$"):
        check_files("model.path", str(model))


def test_a_link_to_nothing_and_a_damaged_list_are_refused(model: Path) -> None:
    """As in a hub cache of which only the snapshots were copied."""
    (model / "other.safetensors").symlink_to(model / "blob")
    with pytest.raises(ConfigError, match="other.safetensors is a link to a file that does not exist"):
        check_files("model.path", str(model))
    (model / "model.safetensors.index.json").write_text('{"weight_map": ')
    with pytest.raises(ConfigError, match=r"model.safetensors.index.json is damaged"):
        check_files("model.path", str(model))
