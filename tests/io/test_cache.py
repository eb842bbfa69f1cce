"""Where copies are kept, and which of them stay."""

import os
from pathlib import Path

import pytest

from kailin_ray.io import cache
from kailin_ray.io.cache import CACHE, cache_folder, mark_used, remove_oldest


def test_the_environment_names_the_folder_before_the_platform_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "/somewhere")
    assert cache_folder("mesh") == Path("/somewhere/mesh")
    monkeypatch.delenv(CACHE)
    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda name: Path("/home/me/.cache", name))
    assert cache_folder("mesh") == Path("/home/me/.cache/kailin_ray/mesh")


def test_a_user_without_a_home_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv(CACHE)
    monkeypatch.setattr(cache.platformdirs, "user_cache_path", refuse)
    with pytest.raises(FileNotFoundError, match="home directory"):
        cache_folder("mesh")


def test_the_copies_that_were_used_last_stay(tmp_path: Path) -> None:
    for age, name in enumerate(["a.npz", "b.npz", "c.npz", ".d.npz.17.partial", "mine.txt", ".e.npz.18.partial"]):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    mark_used(tmp_path / "c.npz")
    remove_oldest(tmp_path, "*.npz", 3)
    assert {path.name for path in tmp_path.iterdir()} == {"a.npz", "b.npz", "c.npz", "mine.txt"}
    remove_oldest(tmp_path, "*.npz", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"c.npz", "mine.txt"}
    remove_oldest(tmp_path / "none", "*.npz", 1)
    mark_used(tmp_path / "none")
