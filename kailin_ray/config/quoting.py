"""Texts of the command line, taken as they are typed.

Hydra reads a value with a grammar of its own: brackets, ``=``, ``#``, quotes and some other characters mean something,
and ``2025_11_27`` is a number. The value of a key whose type is a path or a text is put into quotes of Hydra's.
"""

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from kailin_ray.config.fields import COMMAND_LINE_NAMES, dataclasses_of

_FIELDS = {name: field for field, name in COMMAND_LINE_NAMES.items()}


def quote_texts(kind: type[Any], overrides: Iterable[str]) -> list[str]:
    """Return the overrides (``key=value``), with the values of texts and paths in Hydra's quotes."""
    return [_quote(kind, text) for text in overrides]


def _quote(kind: type[Any], override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or not value or _is_quoted(value) or value == "null" or value.startswith("${"):
        return override
    hints = list(_hints(kind, key.lstrip("+~").split(".")))
    if not hints or not all(map(_is_text, hints)) or (value.startswith("[") and any(map(_is_list, hints))):
        return override
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), value)
    # A text where only a list is allowed is its one item.
    return f"{key}=['{escaped}']" if all(get_origin(hint) is tuple for hint in hints) else f"{key}='{escaped}'"


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _hints(kind: type[Any], path: list[str]) -> Iterable[Any]:
    """Yield the types that a key may have: a source or data may be of several kinds."""
    first = _FIELDS.get(path[0], path[0])
    if first not in {field.name for field in fields(kind)}:
        return
    hint = get_type_hints(kind)[first]
    if len(path) == 1:
        yield hint
    for inner in dataclasses_of(hint) if len(path) > 1 else ():
        yield from _hints(inner, path[1:])


def _is_text(hint: Any) -> bool:
    """Whether a type is a text or a path, or a list of these, or such a type or None."""
    if isinstance(hint, type):
        return issubclass(hint, str | Path | type(None))
    inner = [part for part in get_args(hint) if part is not Ellipsis]
    if get_origin(hint) in (dict,) or not inner:
        return False
    if hasattr(hint, "__metadata__"):
        return _is_text(inner[0])
    return all(map(_is_text, inner))


def _is_list(hint: Any) -> bool:
    return get_origin(hint) is tuple or any(map(_is_list, get_args(hint)))
