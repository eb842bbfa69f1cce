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
    """Remove what the block made of ``out`` if it raises ``ConfigError``."""
    existed = out.exists()
    try:
        yield
    except ConfigError:
        if not existed:
            remove_folder(out)
        raise


@contextmanager
def one_line_faults(log: Path) -> Iterator[None]:
    """Turn what Ray raises into one line that names the log; the traceback goes there."""
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
    """The line of a traceback that says what was wrong: pydantic's, Ray's of a file, or the last exception's."""
    if unread := re.search(r"^\w+: (.+(?:\n.+)*)\n+Failed to read fragment (.+?) after ", traceback, re.MULTILINE):
        return f"{unread[2]}: cannot be read: {' '.join(unread[1].split())}"
    # pydantic's: the field, then what is wrong with its value.
    if wrong := re.search(r"^(\w+)\n\s+(Input should be .+?) \[type=\w+, input_value=(.+?), ", traceback, re.MULTILINE):
        return f"{wrong[1]}: {wrong[2]} (was {without_secrets(wrong[3], wrong[1])})"
    for pattern in (r"^\s*Value error, (.+)", r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)", r"^\s*(\S.*)"):
        if found := re.findall(pattern, traceback, re.MULTILINE):
            return str(found[-1])
    return "it failed"
