"""Foreign text in Markdown: titles, model output, file names."""

import re

from kailin_ray.io.terminal import printable

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|~$:@=])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def escape_text(text: str) -> str:
    """Return a text as one line of Markdown that shows it as it is: no markup, no HTML, no line break."""
    line = " ".join(printable(text).split())
    return _SPECIAL.sub(r"\\\1", "".join(_HTML.get(character, character) for character in line).replace("&", "&"))


def code(text: str) -> str:
    """Return a text as a code span in one line; a backtick in it becomes an apostrophe."""
    return f"`{' '.join(printable(text).split()).replace('`', chr(39)).replace('|', '/') or ' '}`"
