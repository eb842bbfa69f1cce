import gzip
import io
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.io import compressed, locks
from kailin_ray.io.files import atomic_file, atomic_folder, sha256, updating, write_json
from kailin_ray.io.locks import hold_lock


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "sub" / "a") as partial:
        partial.write_text("whole")
        assert not (tmp_path / "sub" / "a").exists()
    assert (tmp_path / "sub" / "a").read_text() == "whole"

    with pytest.raises(RuntimeError), atomic_file(tmp_path / "b") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # an empty folder may stand there
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "x").write_text("1")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]

    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "out") as partial:
        (partial / "y").write_text("2")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "new") as partial:
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x"]


def test_a_folder_s_checksum_sees_names_and_contents_but_no_hidden_files(tmp_path: Path) -> None:
    write_json(tmp_path / "d" / "a.json", {"β": 1})
    before = sha256(tmp_path / "d")
    (tmp_path / "d" / ".hidden").write_text("x")
    assert sha256(tmp_path / "d") == before
    (tmp_path / "d" / "a.json").rename(tmp_path / "d" / "b.json")
    assert sha256(tmp_path / "d") != before


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        hold_lock(tmp_path / "run"),
        pytest.raises(BlockingIOError, match="run: another process is using it"),
        hold_lock(tmp_path / "run"),
    ):
        pass
    with hold_lock(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_has_one_lock_by_whatever_path_it_is_reached(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "latest").symlink_to(tmp_path / "runs" / "a")
    with (
        hold_lock(tmp_path / "runs" / "a"),
        pytest.raises(BlockingIOError, match="another process is using it"),
        hold_lock(tmp_path / "latest"),
    ):
        pass


def test_a_lock_file_that_was_removed_meanwhile_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process releases the lock, and a third takes it, between our two calls."""
    lock, flock, calls = tmp_path / ".run.lock", locks.fcntl.flock, 0

    def flock_late(handle: int, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            lock.unlink()
            lock.touch()
        flock(handle, operation)

    monkeypatch.setattr(locks.fcntl, "flock", flock_late)
    with hold_lock(tmp_path / "run"):
        assert calls == 2
        with lock.open() as other, pytest.raises(BlockingIOError):
            flock(other, locks.fcntl.LOCK_EX | locks.fcntl.LOCK_NB)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no other disk")
def test_a_folder_that_is_a_link_to_another_disk_is_updated(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        disk, out = Path(name, "folder"), tmp_path / "out"
        disk.mkdir()
        assert disk.stat().st_dev != tmp_path.stat().st_dev
        out.symlink_to(disk)
        for version in ("1", "2"):
            with updating(out) as folder:
                (folder / "part").write_text(version)
                (folder / "manifest.json").write_text("{}")
            assert (out / "part").read_text() == version
            assert out.is_symlink() and sorted(path.name for path in disk.iterdir()) == ["manifest.json", "part"]


def outcome(read: Callable[[], bytes]) -> bytes | None:
    """What was read; None if it was refused."""
    try:
        return read()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return None


@given(
    st.lists(st.binary(max_size=300), min_size=1, max_size=3),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    st.floats(0, 1),
)
@settings(max_examples=300)
def test_gzip_files_sound_and_damaged_are_read_as_python_reads_them(
    tmp_path_factory: pytest.TempPathFactory, members: list[bytes], changes: list[tuple[float, int]], kept: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "some.gz"
    content = bytearray(b"".join(gzip.compress(one) for one in members))
    for place, byte in changes:
        content[int(place * len(content))] = byte
    path.write_bytes(b"\x1f\x8b" + content[2 : 2 + int(kept * len(content)) + 1])

    def ours() -> bytes:
        with compressed.open_unpacked(path) as stream:
            return stream.read()

    assert outcome(ours) == outcome(lambda: gzip.decompress(path.read_bytes()))


def test_a_gzip_bomb_is_refused_however_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compressed, "GZIP_FREE", 100_000)
    bomb, small = tmp_path / "bomb", tmp_path / "small"
    bomb.write_bytes(gzip.compress(bytes(1 << 20)))
    small.write_bytes(gzip.compress(bytes(50_000)))
    ways: list[Callable[[BinaryIO], object]] = [
        lambda stream: stream.read(),
        lambda stream: [stream.read(4_096) for _ in range(300)],
        lambda stream: io.TextIOWrapper(stream).read(),
        lambda stream: list(io.TextIOWrapper(stream)),
    ]
    for way in ways:
        with pytest.raises(gzip.BadGzipFile, match="unpacks to more than"), compressed.open_unpacked(bomb) as stream:
            way(stream)
        with compressed.open_unpacked(small) as stream:
            way(stream)
    plain = tmp_path / "plain.gz"  # the name says nothing
    plain.write_bytes(b"text")
    with compressed.open_unpacked(plain) as stream:
        assert stream.read() == b"text"
