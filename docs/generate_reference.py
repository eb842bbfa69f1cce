"""Write ``docs/reference.md``: every command with its keys. A test fails where the page is stale.

python docs/generate_reference.py
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from omegaconf import OmegaConf

from kailin_ray.cli.main import COMMANDS
from kailin_ray.config import compose, conf_dir
from kailin_ray.dataset.rows import SCHEMAS
from kailin_ray.schema import REASONS, RECORDS, REMOVED

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference

`docs/generate_reference.py` makes this page from the configuration; do not edit it.

`null` stands for "not set". Groups are chosen as `model=chat`; `conf/` has the
options of each.
"""
CHOSEN = {"train": ["task=question"]}
"""Groups without a default option: the defaults that are shown are those of this one."""
EXIT_CODES = {
    "0": "done",
    "1": "done in part, or failed",
    "2": "a wrong key, value, path or model; nothing was started",
    "75": "stopped in good order by SIGTERM or `max_hours`; the same command resumes",
    "130": "interrupted",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference())


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Exit codes\n", table(("code", "meaning"), EXIT_CODES.items()), "## Commands and keys\n"]
    for name, (kind, _, about) in COMMANDS.items():
        rows = [(f"`{key}`", default, text) for key, default, text in keys(name, kind)]
        parts += [f"### {name}\n", f"{about[0].upper()}{about[1:]}.\n", table(("key", "default", "meaning"), rows)]
    parts += ["## Why a row is not ok\n", table(("reason", "meaning"), mark(REASONS))]
    parts += ["## Why a document was left out\n", table(("reason", "meaning"), mark(REMOVED))]
    parts += ["## Columns of records\n", table(("column", "type"), columns(RECORDS))]
    for name, schema in SCHEMAS.items():
        parts += [f"## Columns of the dataset's config `{name}`\n", table(("column", "type"), columns(schema))]
    return "\n".join(parts)


def keys(command: str, kind: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each key of a command."""
    values: Any = OmegaConf.to_container(compose(command, CHOSEN.get(command, [])))
    texts = yaml_comments(command) | dict(docstrings(kind, values, ""))
    for key, value in leaves(values):
        # Of a mapping with free keys, such as ``max_fraction``, all have the mapping's text.
        text = texts.get(key) or texts.get(key.rpartition(".")[0]) or ""
        yield key, "required" if value == "???" else f"`{yaml_text(value)}`", text.replace("``", "`")


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of nested mappings that hold no mapping, or an empty one."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def docstrings(kind: type[Any], values: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The docstrings of a dataclass' fields and of those within, by key; ``values`` are the defaults."""
    hints = get_type_hints(kind)
    said = {name: text for part in reversed(kind.__mro__) for name, text in own_docstrings(part).items()}
    for field in fields(kind):
        name = {"from_run": "from"}.get(field.name, field.name)
        if text := said.get(field.name):
            yield f"{prefix}{name}", " ".join(text.split())
        value = values.get(name) if isinstance(values, dict) else None
        for inner in dataclasses_of(hints[field.name]):
            # Of several kinds of source or data, the one that is the default.
            if not isinstance(value, dict) or value.get("kind") in kinds_of(inner):
                yield from docstrings(inner, value, f"{prefix}{name}.")


def dataclasses_of(hint: Any) -> list[type[Any]]:
    """The dataclasses that a type names, alone, as one of several, or annotated."""
    if is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    return [kind for inner in get_args(hint) for kind in dataclasses_of(inner)]


def kinds_of(kind: type[Any]) -> tuple[Any, ...]:
    """The values of a dataclass' field ``kind``; None for one without it."""
    return get_args(get_type_hints(kind).get("kind")) or (None,)


@cache
def own_docstrings(kind: type[Any]) -> dict[str, str]:
    """The docstrings that stand behind the fields in a class' own source."""
    if not is_dataclass(kind):
        return {}
    (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = str(text.value.value)
    return found


def yaml_comments(command: str) -> dict[str, str]:
    """The comments behind the keys of a command's file in ``conf/``, and of its groups' defaults, by key."""
    file = conf_dir() / f"{command}.yaml"
    found: dict[str, str] = {}
    for entry in yaml.safe_load(file.read_text()).get("defaults", []):
        for group, option in entry.items() if isinstance(entry, dict) else ():
            found |= comments_of(conf_dir() / group / f"{option}.yaml", f"{group}.")
        if isinstance(entry, str) and entry != "_self_":
            found |= comments_of(conf_dir() / f"{entry}.yaml", "")
    return found | comments_of(file, "")


def comments_of(file: Path, prefix: str) -> dict[str, str]:
    """The comments behind the keys of a YAML file of mappings."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in file.read_text().splitlines() if file.is_file() else ():
        name, colon, rest = line.partition(":")
        if not colon or not name.strip().isidentifier():
            continue
        indent = len(name) - len(name.lstrip())
        path = [(at, key) for at, key in path if at < indent] + [(indent, name.strip())]
        if " # " in rest:
            found[prefix + ".".join(key for _, key in path)] = rest.partition(" # ")[2].strip()
    return found


def yaml_text(value: Any) -> str:
    """A default as it would be written on the command line."""
    return " ".join(yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").split())


def mark(texts: dict[str, str]) -> list[tuple[str, str]]:
    """The names as code."""
    return [(f"`{name}`", text) for name, text in texts.items()]


def columns(schema: Any) -> list[tuple[str, str]]:
    """Name and type of each column."""
    return [(f"`{column.name}`", f"`{column.type}`") for column in schema]


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
