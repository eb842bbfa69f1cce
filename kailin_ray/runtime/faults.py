"""Turn an exception from Ray into one line that names its innermost cause and the log."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kailin_ray.config import without_secrets
from kailin_ray.errors import CommandFailedError, ConfigError, TooManyFailuresError
from kailin_ray.io.files import remove_folder

_LINK = re.compile(
    r"^(The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):$",
    re.MULTILINE,
)
"""What Python prints between two exceptions of a chain, the innermost first."""
_COLOUR = re.compile(r"\x1b\[\d+m")
_PLACE = re.compile(r"^Traceback |ray::.*\(pid=")
"""A line that names a process instead of an exception."""
_WRAPPERS = ("UserCodeException", "SystemException", "RayTaskError")
"""Exceptions of Ray that only say that there is another one."""
_OURS = "kailin_ray.errors."


@contextmanager
def discard_if_refused(out: Path) -> Iterator[None]:
    """Remove ``out`` if the block created it and raises ``ConfigError``."""
    existed = out.exists()
    try:
        yield
    except ConfigError:
        if not existed:
            remove_folder(out)
        raise


@contextmanager
def one_line_faults(log: Path) -> Iterator[None]:
    """Turn Ray's exceptions into one line that names the log; the traceback goes to the log."""
    from ray.exceptions import RayError

    try:
        yield
    except TooManyFailuresError as error:
        raise CommandFailedError(f"{error}; see {log.parent}") from error
    except RayError as error:
        with log.open("a") as sink:
            traceback.print_exception(error, file=sink)
        raise CommandFailedError(f"{describe_error(error)} (more in {log})") from error


def describe_error(error: BaseException) -> str:
    """Return an exception as one line that names its innermost cause, also if it was raised in another process."""
    from ray.exceptions import RayError

    if isinstance(error, RayError):  # its text is the traceback of the process that raised it
        return cause(str(error))
    chain = [error]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    names = [f"{type(link).__module__}.{type(link).__name__}" for link in chain]
    return _join([f"{name}: {link}" if str(link) else name for name, link in zip(names, chain, strict=True)])


def cause(report: str) -> str:
    """Return the cause in a traceback as one line: pydantic's, Ray's for a file, or the innermost exception's."""
    if file_match := re.search(r"^\w+: (.+(?:\n.+)*)\n+Failed to read fragment (.+?) after ", report, re.MULTILINE):
        return f"{file_match[2]}: cannot be read: {' '.join(file_match[1].split())}"
    # pydantic's: the field, then what is wrong with its value.
    if field_match := re.search(
        r"^(\w+)\n\s+(Input should be .+?) \[type=\w+, input_value=(.+?), ", report, re.MULTILINE
    ):
        return f"{field_match[1]}: {field_match[2]} (was {without_secrets(field_match[3], field_match[1])})"
    if matches := re.findall(r"^\s*Value error, (.+)", report, re.MULTILINE):
        return str(matches[-1])
    pieces = _LINK.split(_COLOUR.sub("", report))
    place = len(pieces) - 1
    chain = [_exception_line(pieces[place])]
    while place and pieces[place - 1].startswith("The above"):
        place -= 2
        chain.append(_exception_line(pieces[place]))
    return _join(chain)


def _exception_line(piece: str) -> str:
    """Return the line of one traceback that names its exception: the first one after the last frame."""
    lines = piece.split("\n")
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    rest = [line for line in lines[frames[-1] + 1 if frames else 0 :] if line.strip() and not _PLACE.search(line)]
    return next((line for line in rest if not line[0].isspace()), rest[0] if rest else "")


def _join(chain: list[str]) -> str:
    """Return one line from the lines of a chain of exceptions, the outermost first.

    An exception of this package is a line for a person already. Otherwise the first and the innermost one are named.
    """
    for line in chain:
        if line.startswith(_OURS):
            return " ".join(line.partition(": ")[2].split()) or "it failed"
    named = [line for line in chain if not any(wrapper in line.partition(":")[0] for wrapper in _WRAPPERS)]
    texts = [" ".join(re.sub(r"^(?:\w+\.)+(?=\w+(?:: |$))", "", line).split()) for line in named]
    texts = [text for text in texts if text]
    if not texts:
        return " ".join(" ".join(chain).split()) or "it failed"
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]}; cause: {texts[-1]}"
