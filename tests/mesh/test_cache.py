"""A parsed hierarchy is kept, and is never more than a copy."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kailin_ray.io.cache import CACHE
from kailin_ray.mesh import MeshHierarchy, cache
from kailin_ray.mesh.readers import Descriptor, read_descriptors
from tests.conftest import TOY

ROWS = [f"{ui}\t{name}\t{name}, Other\t{'|'.join(trees)}\n" for ui, name, trees in TOY]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mesh.tsv"
    path.write_text("".join(ROWS))
    return path


@pytest.fixture
def parsed(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed so far."""
    paths: list[Path] = []
    monkeypatch.setattr("kailin_ray.mesh.hierarchy.read_descriptors", lambda p: paths.append(p) or read_descriptors(p))
    return paths


def copies(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.npz"))


def test_a_source_is_parsed_once(source: Path, parsed: list[Path], own_cache: Path) -> None:
    first = MeshHierarchy.load(source)
    second = MeshHierarchy.load(source)
    assert (parsed, second.equals(first)) == ([source], True)
    with pytest.raises(ValueError, match="read-only"):
        second.counts[0] = 1
    assert list(source.parent.iterdir()) == [source]
    # The same content is the same hierarchy, wherever it lies; another content is another, whatever the name and date.
    twin = source.with_name("twin")
    twin.write_bytes(source.read_bytes())
    assert MeshHierarchy.load(twin).equals(first)
    source.write_text("".join(ROWS[:-1]))
    assert len(MeshHierarchy.load(source).uis) == len(ROWS) - 1
    assert parsed == [source, source]
    assert len(copies(own_cache)) == 2


def test_what_tolerates_orphans_is_kept_apart(source: Path, parsed: list[Path]) -> None:
    source.write_text("".join([*ROWS, "D98\tOrphan\t\tC7.7\n"]))
    assert len(MeshHierarchy.load(source, tolerate_orphans=True).uis) == len(ROWS) + 1
    with pytest.raises(ValueError, match=r"orphan.*C7\.7"):
        MeshHierarchy.load(source)


def test_the_few_that_were_used_last_are_kept(source: Path, parsed: list[Path], own_cache: Path) -> None:
    for number in range(cache.NUM_KEPT + 3):
        other = source.with_name("other")
        other.write_text("".join([*ROWS, f"E{number}\tNumber {number}\t\t\n"]))
        MeshHierarchy.load(other)
        MeshHierarchy.load(source)
    assert parsed.count(source) == 1  # used all the time
    assert len(copies(own_cache)) == cache.NUM_KEPT


@pytest.mark.parametrize("fault", ["cut", "empty", "altered", "a field less", "pickled", "text"])
def test_a_damaged_copy_is_no_loss(source: Path, parsed: list[Path], own_cache: Path, fault: str) -> None:
    whole = MeshHierarchy.load(source)
    [copy] = copies(own_cache)
    content = copy.read_bytes()
    if fault == "a field less":
        with np.load(copy) as kept:
            fields = {name: kept[name] for name in kept.files if name != "branch_ic"}
        np.savez(copy, **fields)
    else:
        at = content.index(b"Neoplasms")
        copy.write_bytes({
            "cut": content[:-1000], "empty": b"", "altered": content[:at] + b"neo" + content[at + 3 :],
            "pickled": pickle.dumps(vars(whole)), "text": b"descriptors",
        }[fault])  # fmt: skip
    assert MeshHierarchy.load(source).equals(whole)
    assert parsed == [source, source]
    assert MeshHierarchy.load(source).equals(whole)  # the copy was mended
    assert parsed == [source, source]


@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_copy_is_read_right_or_not_at_all(
    source: Path, own_cache: Path, changes: list[tuple[float, int]]
) -> None:
    whole = MeshHierarchy.load(source)
    [copy] = copies(own_cache)
    content = bytearray(copy.read_bytes())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    copy.write_bytes(content)
    assert MeshHierarchy.load(source).equals(whole)
    copy.unlink()


def test_a_folder_that_cannot_be_written_is_no_fault(
    source: Path, parsed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = source.with_name("a file")
    blocked.write_text("where a folder should be")
    monkeypatch.setenv(CACHE, str(blocked))
    assert len(MeshHierarchy.load(source).uis) == len(ROWS)
    monkeypatch.setattr("kailin_ray.mesh.cache.cache_folder", lambda kind: (_ for _ in ()).throw(FileNotFoundError()))
    assert len(MeshHierarchy.load(source).uis) == len(ROWS)
    assert parsed == [source, source]


def test_what_changes_while_it_is_read_is_not_kept(
    source: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> list[Descriptor]:
        rows = list(read_descriptors(path))
        path.write_text("".join(ROWS[:-1]))
        return rows

    monkeypatch.setattr("kailin_ray.mesh.hierarchy.read_descriptors", read)
    assert len(MeshHierarchy.load(source).uis) == len(ROWS)
    assert copies(own_cache) == []
