"""Foreign text in Markdown: titles, model output, file names."""

import re

from kailin_ray.io.terminal import printable

# What means something inside a line, and what turns a bare address into a link.
_SPECIAL = re.compile(r"([\\`*_\[\]|~$@#])|(:)(?=//)|(?<=www)(\.)", re.IGNORECASE)
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape_text(text: str) -> str:
    """Return a text as part of a line of Markdown that shows it as it is: no markup, no HTML, no line break."""
    line = " ".join(printable(text).split())
    escaped = "".join(_HTML.get(character, character) for character in line)
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", escaped)


def code(text: str) -> str:
    """Return a text as a code span in one line; a backtick in it becomes an apostrophe."""
    return f"`{' '.join(printable(text).split()).replace('`', chr(39)).replace('|', '/') or ' '}`"
