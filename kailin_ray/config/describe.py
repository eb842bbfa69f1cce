"""What each key of a configuration means: the docstrings of the dataclasses' fields, for `--help` and the reference."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from kailin_ray.config.fields import COMMAND_LINE_NAMES, dataclasses_of
from kailin_ray.schema import Json

REQUIRED = "???"
"""Hydra's value of a key that has no default."""
_LONG = 60


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a command."""

    name: str
    """Dotted, as on the command line."""
    default: str
    """As it would be written on the command line; ``REQUIRED`` if there is none."""
    meaning: str


def describe_keys(kind: type[Any], defaults: Json) -> list[Key]:
    """Return every key of a command, in the order of the dataclass."""
    return list(_describe(kind, defaults, ""))


def _describe(kind: type[Any], values: Any, prefix: str) -> Iterator[Key]:
    hints, meanings = get_type_hints(kind), _field_docstrings(kind)
    # A class' own fields come before those that it inherits: they are what its command is about.
    inherited = {name for parent in kind.__mro__[1:] for name in getattr(parent, "__annotations__", {})}
    for field in sorted(fields(kind), key=lambda field: field.name in inherited):
        name = COMMAND_LINE_NAMES.get(field.name, field.name)
        if name not in values or name == "kind":  # a kind is chosen as a group: source=table
            continue
        inner = [member for member in dataclasses_of(hints[field.name]) if _is_kind(member, values[name])]
        if inner and isinstance(values[name], dict):
            if field.name in meanings:
                yield Key(name=f"{prefix}{name}", default="{...}", meaning=_one_line(meanings[field.name]))
            yield from _describe(inner[0], values[name], f"{prefix}{name}.")
        else:
            free = dict in (get_origin(part) for part in (hints[field.name], *get_args(hints[field.name])))
            meaning, choices = meanings.get(field.name, ""), _choices(hints[field.name])
            if any(choice not in meaning for choice in choices):
                meaning += f" One of: {', '.join(choices)}."
            yield _key(f"{prefix}{name}", values[name], meaning, free)


def _key(name: str, value: Any, meaning: str, free: bool) -> Key:
    """A key; a long mapping with ``free`` names and one value is shown as ``name.*``."""
    default = REQUIRED if value == REQUIRED else format_value(value)
    if free and len(default) > _LONG and len({str(part) for part in value.values()}) == 1:
        name, default = f"{name}.*", format_value(next(iter(value.values())))
    return Key(name=name, default=default, meaning=_one_line(meaning))


def _one_line(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


def _choices(hint: Any) -> tuple[str, ...]:
    """The values that a type lists, if it lists several."""
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint))) if len(get_args(hint)) > 1 else ()
    return next((choices for choices in map(_choices, get_args(hint)) if choices), ())


def format_value(value: Any) -> str:
    """A value as it would be written on the command line."""
    return " ".join(yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").split())


def _is_kind(kind: type[Any], values: Any) -> bool:
    """Whether values belong to a dataclass: several kinds of source or data differ in their field ``kind``."""
    allowed = get_args(get_type_hints(kind).get("kind")) or (None,)
    return isinstance(values, dict) and values.get("kind") in allowed


def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    """The string literals behind the fields of a dataclass and of those that it inherits from, by field."""
    docstrings: dict[str, str] = {}
    for parent in filter(is_dataclass, reversed(kind.__mro__)):
        (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(parent))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docstrings[ast.unparse(field.target)] = str(text.value.value)
    return docstrings
