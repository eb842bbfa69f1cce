"""Commands whose ``out`` is a link to another disk: a new folder fills it, an update changes it, and the link stays."""

import shutil
from pathlib import Path

import pytest

from kailin_ray.io.manifests import NAME
from tests.conftest import ENCODER, Command
from tests.support.folders_of_before import copy_folders

ROWS = "pmid,title,abstract,mesh\n" + "".join(
    f"{pmid},Title {pmid},An abstract on the effect of drug {pmid} in mice.,D003920\n" for pmid in range(1, 9)
)


def link(at: Path, disk: Path, exists: bool) -> Path:
    at.symlink_to(disk / at.name)
    if exists:
        (disk / at.name).mkdir()
    return at


@pytest.mark.parametrize("exists", [True, False])
def test_publish_and_compare(kailin_here: Command, tmp_path: Path, disk: Path, exists: bool) -> None:
    folders = copy_folders(tmp_path / "at")
    shutil.copytree(folders / "run", folders / "other")
    for command, *keys in (
        ("publish", f"run={folders / 'run'}"),
        ("compare", f"old={folders / 'run'}", f"new={folders / 'other'}", "judge=false", "held_out=false"),
    ):
        out = link(tmp_path / command, disk, exists)
        done = kailin_here(command, *keys, f"out={out}")
        assert done.returncode == 0, done.stderr
        assert out.is_symlink()
        assert (disk / command / NAME).exists()
        again = kailin_here(command, *keys, f"out={out}")
        assert (again.returncode, "exists" in again.stderr) == (2, True)


@pytest.mark.slow  # three commands, twice
def test_ingest_select_and_index_follow_an_update(kailin: Command, tmp_path: Path, disk: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.csv").write_text(ROWS)
    corpus, documents, index = (link(tmp_path / name, disk, True) for name in ("corpus", "documents", "index"))
    commands = (
        ("ingest", "source=table", f"source.path={source}", f"out={corpus}"),
        ("select", f"corpus={corpus}", f"out={documents}"),
        ("index", f"documents={documents}", f"out={index}", f"encoder.path={ENCODER}", "encoder.max_length=32"),
    )
    for version in ("a.csv", "b.csv"):
        (source / version).write_text(ROWS if version == "a.csv" else ROWS.replace("drug 3", "poison 3"))
        for command in commands:
            done = kailin(*command)
            assert done.returncode == 0, done.stderr
    assert all(folder.is_symlink() for folder in (corpus, documents, index))
    assert sorted(path.name for path in disk.iterdir()) == ["corpus", "documents", "index"]
    assert "update 2: 1 passages added, 1 removed" in kailin(*commands[2]).stdout
