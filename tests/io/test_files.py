import errno
import gzip
import io
import os
import shutil
import stat
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from functools import partial, partialmethod
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.io import compressed, locks
from kailin_ray.io.files import atomic_file, atomic_folder, finish, sha256, updating, write_json
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_said_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As Lustre mounted without them, or NFS without its lock manager."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    fault = rf"run: its file system has no locks \({os.strerror(number)}\), and two processes could .*; mount it with"
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match=fault), hold_lock(tmp_path / "run"):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As CIFS and many of FUSE. An error of the disk stays one."""
    fsync = os.fsync

    def sync_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync_files)
    with pytest.raises(OSError, match="Input/output") if number == errno.EIO else nullcontext():
        write_json(tmp_path / "t.json", 1)
    assert (tmp_path / "t.json").read_text() == "1\n"


def update(out: Path, version: str) -> None:
    with updating(out) as folder:
        (folder / "part").write_text(version)
        (folder / "sub").mkdir()
        (folder / "sub" / "part").write_text(version)
        (folder / "manifest.json").write_text(version)


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def whole(version: str) -> dict[str, str]:
    return dict.fromkeys(("part", "sub/part", "manifest.json"), version)


@pytest.mark.parametrize("what", ["full", "empty", "missing"])
def test_a_folder_that_is_a_link_to_another_disk_is_updated(tmp_path: Path, disk: Path, what: str) -> None:
    out = tmp_path / "out"
    out.symlink_to(disk / "folder")
    if what != "missing":
        (disk / "folder").mkdir()
    if what == "full":
        update(out, "0")
    for version in ("1", "2"):
        update(out, version)
        assert contents(disk / "folder") == whole(version)
        assert out.is_symlink()
    assert [path.name for path in disk.iterdir()] == ["folder"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("what", ["empty", "missing"])
def test_a_new_folder_fills_a_link_to_another_disk(tmp_path: Path, disk: Path, what: str) -> None:
    """As the results of publish, train, compare and bundle do."""
    out = tmp_path / "out"
    out.symlink_to(disk / "folder")
    if what == "empty":
        (disk / "folder").mkdir()
    with atomic_folder(out) as folder:
        (folder / "x").write_text("1")
    assert out.is_symlink() and contents(disk / "folder") == {"x": "1"}
    with pytest.raises(FileExistsError), atomic_folder(out) as folder:
        (folder / "x").write_text("2")
    assert contents(disk / "folder") == {"x": "1"}


def test_a_folder_within_an_index_that_is_a_link_to_another_disk_is_updated(tmp_path: Path, disk: Path) -> None:
    out = tmp_path / "out"
    update(out, "1")
    shutil.move(out / "sub", disk / "sub")
    (out / "sub").symlink_to(disk / "sub")
    update(out, "2")
    assert contents(out) | contents(disk) == whole("2")
    assert (out / "sub").is_symlink()
    assert list(tmp_path.iterdir()) == [out]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts another disk, or another folder, at ``tmp_path / "out"``."""
    out = tmp_path / "out"
    out.mkdir()

    def mount(*options: str) -> Path:
        if subprocess.run(["mount", *options, str(out)], capture_output=True).returncode:
            pytest.skip("no mount allowed here")
        return out

    yield mount
    subprocess.run(["umount", "-l", str(out)], capture_output=True)


@pytest.mark.parametrize("kind", ["disk", "bind"])
def test_a_folder_that_is_mounted_is_filled_and_updated(
    tmp_path: Path, mounted: Callable[..., Path], kind: str
) -> None:
    """A volume of a container. A bind mount has the same device as the folder that it is mounted in."""
    (tmp_path / "elsewhere").mkdir()
    out = mounted("-t", "tmpfs", "tmpfs") if kind == "disk" else mounted("--bind", str(tmp_path / "elsewhere"))
    for version in ("1", "2"):
        update(out, version)
        assert contents(out) == whole(version)
    shutil.rmtree(out / "sub")
    for file in ("part", "manifest.json"):
        (out / file).unlink()
    with atomic_folder(out) as folder:
        (folder / "x").write_text("1")
    assert contents(out) == {"x": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_a_disk_that_is_too_small_for_an_update_keeps_the_folder_as_it_was(
    tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    out = mounted("-t", "tmpfs", "-o", "size=300k", "tmpfs")
    update(out, "1")
    with pytest.raises(OSError, match="No space left"), updating(out) as folder:
        (folder / "part").write_bytes(bytes(400_000))
        (folder / "manifest.json").write_text("2")
    assert {name: text for name, text in contents(out).items() if not name.startswith(".")} == whole("1")
    subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
    finish(out)  # as the same command does first
    assert (out / "manifest.json").read_text() == "2"
    assert (out / "part").stat().st_size == 400_000
    assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "part", "sub"]


def test_an_update_that_is_interrupted_anywhere_goes_on(tmp_path: Path, disk: Path) -> None:
    """Killed at each of its steps in turn: the folder is the old one or has no manifest, and the next call ends it."""
    for kill_at in range(1, 24):
        home = tmp_path / str(kill_at)
        out = home / "out"
        update(out, "1")
        (disk / str(kill_at)).mkdir()
        shutil.move(out / "sub", disk / str(kill_at) / "sub")
        (out / "sub").symlink_to(disk / str(kill_at) / "sub")
        calls = 0

        def killed(*arguments: Any, kill_at: int = kill_at, call: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", partialmethod(killed, call=Path.replace))
            patch.setattr(Path, "unlink", partialmethod(killed, call=Path.unlink))
            patch.setattr(shutil, "copyfile", partial(killed, call=shutil.copyfile))
            with suppress(KeyboardInterrupt):
                update(out, "2")
        if (out / "manifest.json").exists() and (out / "manifest.json").read_text() == "1":
            shown = contents(out) | contents(disk / str(kill_at))
            assert {name: text for name, text in shown.items() if "/." not in f"/{name}"} == whole("1")
        finish(out)
        if not calls < kill_at and (out / "manifest.json").read_text() == "1":
            continue  # killed before the update was complete
        assert contents(out) | contents(disk / str(kill_at)) == whole("2")


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
