"""Check a bundle and unpack it: unpack.py [FOLDER]. Lies in the bundle's folder, and needs Python alone.

Without FOLDER it only checks. A bundle is read as data: a file is written only where the manifest lists it, below
FOLDER, and counts only with the SHA-256 that stands there. FOLDER appears when it is whole. Exit code 2: refused.
"""

import hashlib
import io
import json
import platform
import re
import shutil
import sys
import tarfile
from pathlib import Path

CHUNK = 1 << 20
PLACES = ("wheels", "models", "assets")


class RefusedError(Exception):
    """What is wrong with a bundle or this machine; one line."""


def read_sums(bundle):
    """SHA-256 by name of the bundle's files."""
    path = bundle / "SHA256SUMS"
    if not path.is_file():
        raise RefusedError("SHA256SUMS is missing")
    sums = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9][\w.+-]*)", line)
        if not found:
            raise RefusedError(f"SHA256SUMS is damaged: {line[:80]!r}")
        sums[found[2]] = found[1]
    return sums


def sha256(path):
    """SHA-256 of a file, as hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def check_file(bundle, name, expected, size=None):
    """Refuse a file that is missing, has another size, or was altered."""
    path = bundle / name
    if not path.is_file():
        raise RefusedError(f"{name} is missing")
    found = path.stat().st_size
    if size is not None and found != size:
        raise RefusedError(f"{name} has {found:,} bytes, not {size:,}; copy it again")
    if sha256(path) != expected:
        raise RefusedError(f"{name} was altered, or is another bundle's: its SHA-256 is not the one in SHA256SUMS")


def read_manifest(bundle, sums):
    """The manifest, when all of the bundle's small files are what SHA256SUMS says."""
    for name in ("manifest.json", "install.sh", "unpack.py", "requirements.lock", "bom.json"):
        if name not in sums:
            raise RefusedError(f"SHA256SUMS is damaged: it does not name {name}")
        check_file(bundle, name, sums[name])
    return json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))


def check_parts(bundle, manifest, sums):
    """Refuse a bundle one of whose parts is missing, cut, altered, or none of it."""
    parts = manifest["parts"]
    names = {part["name"] for part in parts}
    for path in sorted(bundle.iterdir()):
        if re.search(r"\.tar\.\d+$", path.name) and path.name not in names:
            raise RefusedError(f"{path.name} is no part of this bundle, {manifest['id']}; remove it")
    for part in parts:  # what can be told at once, of all, before any is read
        path = bundle / part["name"]
        if path.is_file() and path.stat().st_size == part["size"]:
            continue
        check_file(bundle, part["name"], part["sha256"], part["size"])
    for number, part in enumerate(parts, start=1):
        if sums.get(part["name"]) != part["sha256"]:
            raise RefusedError(f"SHA256SUMS and manifest.json do not agree on {part['name']}")
        print(f"checking part {number} of {len(parts)}", file=sys.stderr, flush=True)
        check_file(bundle, part["name"], part["sha256"], part["size"])


def check_machine(manifest):
    """Refuse a machine that the bundle's wheels do not run on."""
    wanted = manifest["platform"]
    python = ".".join(map(str, sys.version_info[:2]))
    if sys.implementation.name != "cpython" or python != manifest["python"]:
        raise RefusedError(f"the bundle is for Python {manifest['python']}, this is {sys.implementation.name} {python}")
    needed, found = f"{wanted['system']} on {wanted['machine']}", f"{platform.system()} on {platform.machine()}"
    if found != needed:
        raise RefusedError(f"the bundle is for {needed}, this is {found}")
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(map(int, version.split("."))) < tuple(map(int, wanted["glibc"].split("."))):
        raise RefusedError(f"the bundle's wheels need glibc {wanted['glibc']}, this machine has {version}")


def check_room(manifest, folder):
    """Refuse a disk that cannot hold what is unpacked and what is installed of it."""
    needed = sum(piece["size"] for piece in manifest["files"]) + manifest["installed_bytes"]
    there = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise RefusedError(f"{there} has {free / 1e9:,.1f} GB free; {needed / 1e9:,.1f} GB are needed")


class Joined(io.RawIOBase):
    """Files, one behind the other."""

    def __init__(self, paths):
        self._paths = iter(paths)
        self._stream = None

    def readable(self):
        """So that it can be buffered."""
        return True

    def readinto(self, buffer):
        """Fill from the file that is being read, or the next."""
        while True:
            if self._stream is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._stream = path.open("rb")
            if count := self._stream.readinto(buffer):
                return count
            self._stream.close()
            self._stream = None


def place(folder, name):
    """Where a file of the bundle goes. Refuses what would lie outside ``folder``."""
    parts = name.split("/")
    if len(parts) < 2 or parts[0] not in PLACES or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RefusedError(f"{name!r} would be written outside the folder")
    return folder.joinpath(*parts)


def unpack(bundle, manifest, folder):
    """Write the files that the manifest lists, from the parts; each is checked."""
    listed = {piece["name"]: piece for piece in manifest["files"]}
    targets = {name: place(folder, name) for name in listed}
    stream = io.BufferedReader(Joined(bundle / part["name"] for part in manifest["parts"]), CHUNK)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            piece = listed.pop(member.name, None)
            if piece is None or not member.isreg():
                raise RefusedError(f"{member.name!r} in the parts is no file that the manifest lists")
            write(tar.extractfile(member), targets[member.name], piece)
    if listed:
        raise RefusedError(f"{min(listed)} is not in the parts, and the manifest lists it")


def write(source, target, piece):
    """Write one file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as sink:
        while data := source.read(CHUNK):
            digest.update(data)
            sink.write(data)
    if digest.hexdigest() != piece["sha256"]:
        raise RefusedError(f"{piece['name']} is not what the manifest says: its SHA-256 is another")


def main():
    """Check, and unpack where a folder is given."""
    bundle = Path(__file__).resolve().parent
    try:
        sums = read_sums(bundle)
        manifest = read_manifest(bundle, sums)
        check_machine(manifest)
        check_parts(bundle, manifest, sums)
        if len(sys.argv) == 1:
            return 0
        folder = Path(sys.argv[1])
        check_room(manifest, folder)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            unpack(bundle, manifest, partial)
            partial.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except RefusedError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        print(f"refused: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
