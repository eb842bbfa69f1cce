"""Turn an exception from Ray into one line that names the log."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kailin_ray.config import without_secrets
from kailin_ray.errors import CommandFailedError, ConfigError, TooManyFailuresError
from kailin_ray.io.files import remove_folder


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
            sink.write(f"{error}\n")
        raise CommandFailedError(f"{cause(str(error))} (more in {log})") from error


def cause(traceback: str) -> str:
    """Return the line of a traceback with the cause: pydantic's, Ray's for a file, or the last exception's."""
    if file_match := re.search(r"^\w+: (.+(?:\n.+)*)\n+Failed to read fragment (.+?) after ", traceback, re.MULTILINE):
        return f"{file_match[2]}: cannot be read: {' '.join(file_match[1].split())}"
    # pydantic's: the field, then what is wrong with its value.
    if field_match := re.search(
        r"^(\w+)\n\s+(Input should be .+?) \[type=\w+, input_value=(.+?), ", traceback, re.MULTILINE
    ):
        return f"{field_match[1]}: {field_match[2]} (was {without_secrets(field_match[3], field_match[1])})"
    for pattern in (r"^\s*Value error, (.+)", r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)", r"^\s*(\S.*)"):
        if matches := re.findall(pattern, traceback, re.MULTILINE):
            return str(matches[-1])
    return "it failed"
