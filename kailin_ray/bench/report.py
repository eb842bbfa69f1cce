"""The report of a benchmark: README.md for people, bench.json for programs."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kailin_ray.bench.engine import Machine
from kailin_ray.bench.figures import Figures, middle
from kailin_ray.config import without_secrets
from kailin_ray.io.files import atomic_file, write_json
from kailin_ray.io.markdown import code, escape_text
from kailin_ray.schema import Json

NOTES = (
    "Rates are per unit: a GPU, or an engine on CPUs. The clock runs from the first warm engine to the last "
    "finished row, so the start of the engines does not count. *of bare*: the seconds that the same engines take "
    "for the same prompts and as many tokens without the pipeline (all questions at once, then all answers, then "
    "all decisions), over the pipeline's seconds. *cached*: the share of prompt tokens that the prefix cache had. "
    "*busy*: the share of the time in which an engine had a call. Every figure of every run is in `bench.json`."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One combination of the sweep's settings."""

    settings: Json
    runs: list[Figures] = field(default_factory=list)
    failure: str | None = None
    """Why it could not be measured."""

    @property
    def figures(self) -> Figures | None:
        """The figures of the run in the middle; None if it was not measured."""
        return middle(self.runs) if self.runs else None

    @property
    def name(self) -> str:
        """The settings in a line."""
        return ", ".join(f"{key}={json.dumps(value)}" for key, value in self.settings.items()) or "as configured"


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """The result of ``bench``."""

    out: Path
    entries: list[Entry]
    machines: list[Machine]
    versions: dict[str, str]
    config: Json
    command: str | None

    @property
    def best(self) -> Entry | None:
        """The combination with the most abstracts per second and unit."""
        measured = [entry for entry in self.entries if entry.runs]
        return max(measured, key=lambda entry: middle(entry.runs)["abstracts_per_second"], default=None)


def write_report(result: BenchResult) -> None:
    """Write the report's files."""
    entries = [{"settings": entry.settings, "failure": entry.failure, "runs": entry.runs} for entry in result.entries]
    best = result.best
    content = {
        "command": result.command,
        "versions": result.versions,
        "machines": result.machines,
        "best": best.settings if best else None,
        "entries": entries,
        "config": result.config,
    }
    write_json(result.out / "bench.json", content)
    with atomic_file(result.out / "README.md") as partial:
        partial.write_text(format_report(result), encoding="utf-8")


def summarize(figures: Figures) -> str:
    """Return the figures of a measurement in a line."""
    unit = figures["unit"]
    parts = [
        f"{figures['abstracts_per_second']:,.2f} abstracts/s, {figures['accepted_per_hour']:,.0f} accepted an hour and "
        f"{figures['output_tokens_per_second']:,.0f} output tokens/s per {unit}"
    ]
    if figures["of_bare"] is not None:
        parts.append(f"{100 * figures['of_bare']:.1f} % of the bare engine")
    if figures["of_chain"] is not None:
        parts.append(f"{figures['of_chain']:.2f} times the chain")
    return "; ".join(parts)


def format_table(result: BenchResult) -> str:
    """Return the table of all combinations in Markdown, which reads well in a terminal too."""
    unit = next((entry.figures["unit"] for entry in result.entries if entry.figures), "engine")
    priced = any(entry.figures and entry.figures["price_per_million_abstracts"] is not None for entry in result.entries)
    columns = {
        "settings": lambda entry, _: code(entry.name),
        f"{unit}s": lambda _, f: f"{f['num_units']:g}",
        f"abstracts/s per {unit}": lambda _, f: f"{f['abstracts_per_second']:,.3f}",
        "accepted/h": lambda _, f: f"{f['accepted_per_hour']:,.0f}",
        "output tokens/s": lambda _, f: f"{f['output_tokens_per_second']:,.0f}",
        "new prompt tokens/s": lambda _, f: f"{f['new_prompt_tokens_per_second']:,.0f}",
        "cached": lambda _, f: f"{100 * f['cached_share']:.0f} %",
        "busy": lambda _, f: f"{100 * f['busy_share']:.0f} %",
        "first token p50, p95": lambda _, f: f"{f['first_token']['p50']:.2f}, {f['first_token']['p95']:.2f} s",
        "of bare": lambda _, f: _ratio(f["of_bare"]),
        "of chain": lambda _, f: _ratio(f["of_chain"]),
        f"{unit}-hours a million": lambda _, f: f"{f['hours_per_million_abstracts']:,.0f}",
        "price a million": lambda _, f: f"{f['price_per_million_abstracts'] or 0:,.0f}",
    }
    if not priced:
        del columns["price a million"]
    measured = [entry.figures for entry in result.entries if entry.figures]
    for name, key in (("of bare", "of_bare"), ("of chain", "of_chain")):
        if not any(figures[key] is not None for figures in measured):  # type: ignore[literal-required]
            del columns[name]
    rows = [list(columns)]
    for entry in result.entries:
        if entry.figures:
            rows.append([show(entry, entry.figures) for show in columns.values()])
        else:
            rows.append([code(entry.name), f"failed: {escape_text(entry.failure or '')}"])
            rows[-1] += [""] * (len(columns) - 2)
    widths = [max(len(row[i]) for row in rows if len(row[i]) < 60 or i == 0) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _count_documents(result: BenchResult) -> str:
    return next((f"{entry.figures['num_documents']:,}" for entry in result.entries if entry.figures), "no")


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def format_report(result: BenchResult) -> str:
    """Return the page of Markdown."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: BenchResult) -> Iterator[str]:
    config, best = result.config, result.best
    yield "# Throughput"
    yield ""
    if result.command:
        yield f"Command: {code(without_secrets(result.command))}"
        yield ""
    for machine in {json.dumps(machine): machine for machine in result.machines}.values():
        number = result.machines.count(machine)
        gpus = ", ".join(map(escape_text, machine["gpus"])) or "no GPU"
        driver = f", driver {escape_text(machine['driver'])}" if machine["driver"] else ""
        yield (
            f"- {number} engine{'s' * (number > 1)} on: {gpus}{driver}; {machine['cores']} cores "
            f"({escape_text(machine['cpu'])}), {machine['memory_gib']} GiB"
        )
    yield "- " + ", ".join(f"{name} {escape_text(version)}" for name, version in result.versions.items())
    runs = config["bench"]["runs"]
    medians = f", medians of {runs} runs" if runs > 1 else ", one run of each"
    yield f"- model {code(str(config['model']['path']))}, {_count_documents(result)} abstracts{medians}"
    yield ""
    yield format_table(result)
    yield ""
    if best and len(result.entries) > 1:
        yield f"Best, by abstracts/s: **{escape_text(best.name)}**."
        yield ""
    yield NOTES
    if best and best.figures:
        yield ""
        yield "## Stages" + (" of the best" if len(result.entries) > 1 else "")
        yield ""
        yield "*CPU ms*: of an abstract, in the processes that feed the engines (the pipeline and vLLM's front end)."
        yield ""
        columns = "stage|model|engines x GPUs|seconds|calls|calls at once|busy|CPU ms|bare seconds|bare CPU ms".split(
            "|"
        )
        yield f"| {' | '.join(columns)} |"
        yield "|---" * len(columns) + "|"
        for stage in best.figures["stages"]:
            bare = "" if stage["bare_seconds"] is None else f"{stage['bare_seconds']:.1f}"
            yield (
                f"| {stage['stage']} | {code(stage['model'])} | {stage['replicas']} x {stage['gpus']:g} | "
                f"{stage['seconds']:.1f} | {stage['calls']:,} | {stage['calls_at_once']:.0f} | "
                f"{100 * stage['busy_share']:.0f} % | {stage['cpu_ms']:.1f} | {bare} | {stage['bare_cpu_ms']:.1f} |"
            )
