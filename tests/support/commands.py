"""Commands run in this process, as a process of its own imports for seconds each time."""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from unittest.mock import patch

from kailin_ray.cli.main import main

ROOT = Path(__file__).parent.parent.parent


def run_here(arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, in the project's root; give what its process would give."""
    words = ["kailin_ray", *map(str, arguments)]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        patch.object(sys, "argv", words),
        _in_folder(ROOT),
    ):
        with _captured(out, err):
            code = _exit_code()
        said = [_text(file) for file in (out, err)]
    return subprocess.CompletedProcess(words, code, *said)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return int(ended.code or 0)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@contextmanager
def _captured(out: IO[bytes], err: IO[bytes]) -> Iterator[None]:
    """Send to two files what this process writes, by its descriptors too, as Ray and C++ write there."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        stream.flush()
    kept = os.dup(1), os.dup(2)
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stderr.close()
        sys.stdout, sys.stderr = streams
        for descriptor, copy in enumerate(kept, start=1):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")
