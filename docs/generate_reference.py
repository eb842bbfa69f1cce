"""Write ``docs/reference.md``: every command with its keys. A test fails where the page is stale.

python docs/generate_reference.py
"""

import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import open_dict

from kailin_ray.cli.help import compose_for_help, list_groups, summarize_command, to_values
from kailin_ray.cli.main import COMMANDS
from kailin_ray.config import conf_dir
from kailin_ray.config.describe import REQUIRED, Key, describe_keys
from kailin_ray.config.renamed import RENAMED, RENAMED_VALUES
from kailin_ray.dataset.columns import MEANINGS
from kailin_ray.dataset.rows import SCHEMAS
from kailin_ray.schema import LEFT_OUT, REASONS, RECORDS, REMOVED

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference

This page lists every command, key, exit code, reason and column. `docs/generate_reference.py` generates it from the
code: do not edit it.

A key is given as `key=value`: `kailin-ray distill limit=64`. A group is a set of keys with ready-made options, chosen
as `group=option`: `cluster=gpu`. Every key of a group can still be set: `cluster=gpu cluster.num_engines=4`. `null`
means "not set". Quote values with brackets or spaces: `'stages=[answer]'`. The same texts are printed by
`kailin-ray <command> --help`, and `kailin-ray <command> --cfg job` prints the whole configuration as it would run.
"""
GROUPS = {
    "source": "ingest", "sample": "select", "encoder": "index", "model": "distill", "retrieval": "distill",
    "evaluation": "distill", "cluster": "distill", "task": "train", "data": "train", "optimization": "train",
}  # fmt: skip
"""Every group, and a command that has it."""
KINDS = ("source", "data")
"""Groups whose options have different keys."""
EXIT_CODES = {
    "0": "Done.",
    "1": "Done in part, or failed.",
    "2": "A wrong key, value, path or model. Nothing was started.",
    "75": "Stopped in good order by SIGTERM or `max_hours`. The same command resumes.",
    "130": "Interrupted with Ctrl-C.",
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(format_reference())


def format_reference() -> str:
    """The whole page."""
    sections = [HEAD, "## Commands\n", *map(format_command, COMMANDS)]
    sections += ["## Groups\n", *map(format_group, GROUPS)]
    sections += ["## Renamed keys\n", "An old key is refused with the new key's name.\n", format_renamed()]
    sections += ["## Exit codes\n", format_table(("code", "meaning"), EXIT_CODES.items())]
    sections += ["## Reasons of rows that are not ok\n", format_table(("reason", "meaning"), mark(REASONS))]
    sections += [
        "## Reasons of accepted rows that publish leaves out\n",
        format_table(("reason", "meaning"), mark(LEFT_OUT)),
    ]
    sections += ["## Reasons of removed documents\n", format_table(("reason", "meaning"), mark(REMOVED))]
    sections += ["## Columns of records\n", format_columns(RECORDS)]
    for name, schema in SCHEMAS.items():
        sections += [f"## Columns of the dataset config `{name}`\n", format_columns(schema, MEANINGS[name])]
    return "\n".join(sections)


def format_command(name: str) -> str:
    """A command: what it does, its own keys, and links to its groups."""
    about, (keys, groups) = summarize_command(name), describe(name)
    text = f"### {name}\n\n{about[0].upper()}{about[1:]}.\n"
    if groups:
        links = ", ".join(f"[`{group}={option}`](#group-{group})" for group, option in groups.items())
        text += "\n" + textwrap.fill(f"Groups: {links}.", 120, break_long_words=False, break_on_hyphens=False) + "\n"
    if name == "plan":
        return text + "\nIt takes the keys of [distill](#distill) and requires none of them.\n"
    return f"{text}\n{format_keys(key for key in keys if key.name.partition('.')[0] not in groups)}"


@cache
def describe(command: str, *overrides: str) -> tuple[list[Key], dict[str, str]]:
    """The keys of a command, and its groups with the options that its help shows."""
    composed = compose_for_help(command, overrides)
    choices = {group: str(option) for group, option in composed.hydra.runtime.choices.items() if group in GROUPS}
    with open_dict(composed):
        del composed["hydra"]
    return describe_keys(COMMANDS[command][0], to_values(composed)), choices


def format_group(group: str) -> str:
    """A group: its options, and the keys of the one that is the default, or of each kind."""
    command, stems = GROUPS[group], list_groups()[group]
    default = describe(command)[1][group]
    text = f"### Group {group}\n\n"
    options = [(f"`{group}={stem}`", first_comment(conf_dir() / group / f"{stem}.yaml")) for stem in stems]
    if len(options) > 1:
        text += format_table(("option", "what it is"), options) + "\n"
    shown: set[tuple[str, ...]] = set()
    for stem in [default, *(stem for stem in stems if stem != default and group in KINDS)]:
        keys = [key for key in describe(command, f"{group}={stem}")[0] if key.name.startswith(f"{group}.")]
        names = tuple(key.name for key in keys)
        if keys and names not in shown:
            shown.add(names)
            text += f"Keys and defaults of `{group}={stem}`:\n\n{format_keys(keys)}\n"
    return text.removesuffix("\n")


def first_comment(file: Path) -> str:
    """The first paragraph of comments of a YAML file."""
    lines = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    lines = [line for line in lines if not line.startswith("@package")]
    return " ".join(lines[: lines.index("")] if "" in lines else lines)


def format_keys(keys: Iterable[Key]) -> str:
    """A table of keys."""
    rows = [
        (f"`{key.name}`", "required" if key.default == REQUIRED else f"`{key.default}`", key.meaning) for key in keys
    ]
    return format_table(("key", "default", "meaning"), rows)


def format_renamed() -> str:
    """A table of the old keys."""
    rows = []
    for old, new in RENAMED.items():
        values = ", ".join(f"`{after}` for `{before}`" for before, after in RENAMED_VALUES.get(new, {}).items())
        rows.append((f"`{old}`", f"`{new}`" + (f" ({values})" if values else "")))
    return format_table(("old key", "key"), rows)


def mark(texts: dict[str, str]) -> list[tuple[str, str]]:
    """The names as code."""
    return [(f"`{name}`", text) for name, text in texts.items()]


def format_columns(schema: Any, meanings: dict[str, str] | None = None) -> str:
    """A table of a schema's columns, with their meanings where there are some."""
    rows = [(f"`{column.name}`", f"`{column.type}`") for column in schema]
    if not meanings:
        return format_table(("column", "type"), rows)
    names = zip(rows, schema.names, strict=True)
    return format_table(("column", "type", "meaning"), [(*row, meanings[name]) for row, name in names])


def format_table(head: Sequence[str], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
