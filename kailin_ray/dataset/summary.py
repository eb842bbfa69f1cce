"""The summary of a run for a person: counts, tokens, speed, and a few triples formatted for reading."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kailin_ray.agents.passages import join_passage
from kailin_ray.config import ReportConfig
from kailin_ray.dataset.counts import count_of_before
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import Record, triple
from kailin_ray.dataset.run import Cost, EvaluationFigures, Run, RunManifest, TokenFigures
from kailin_ray.dataset.variety import Variety, describe_variety
from kailin_ray.io.storage import check_access
from kailin_ray.mesh.figures import Coverage
from kailin_ray.schema import OK, REASONS, Json

WIDTH = 100
# A terminal would execute these characters: colours, titles, text that overwrites or reverses other text.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of ``report``."""

    run: Run
    examples: tuple[Record, ...]
    """Accepted records as triples."""
    num_of_before: int
    """Accepted records of a version that did not record ``shown``."""


def report(config: ReportConfig) -> Report:
    """Open a complete run and take some of its triples. Raises ``ConfigError`` if it is not complete."""
    check_access("run", config.run)
    run = Run.open(config.run)
    examples = tuple(take_examples(run.path, config.examples))
    return Report(run=run, examples=examples, num_of_before=count_of_before(run.path))


def take_examples(run: Path, number: int) -> list[Record]:
    """Return the first ``number`` triples of a run."""
    accepted = (row for batch in record_batches(run, size=64) for row in batch.to_pylist() if row["status"] == OK)
    return [triple(row) for row in islice(accepted, number)]


def format_summary(made: RunManifest) -> str:
    """Return the figures of a run as text for a person."""
    return "\n".join(
        [
            *_counts(made),
            *_index(made),
            *_evaluation(made.evaluation),
            *_variety(made.variety, made.config),
            *_coverage(made.coverage),
            *_tokens(made.tokens),
            *_time(made),
            *_cost(made.cost),
        ]
    )


def _counts(manifest: RunManifest) -> list[str]:
    total = manifest.num_documents
    lines = [f"{total:,} abstracts"]
    lines += [f"  {name:<9}{count:>8,}  {_share(count, total)}" for name, count in manifest.num_by_status.items()]
    if manifest.num_by_reason:
        lines.append("not accepted because")
        lines += [f"  {count:>5,}  {name}: {REASONS[name]}" for name, count in manifest.num_by_reason.items()]
    return lines


def _index(manifest: RunManifest) -> list[str]:
    versions = manifest.index.versions
    if len(versions) < 2:
        return []
    updates = ", ".join(str(version["updates"] or "unknown") for version in versions)
    return [f"contexts    from {len(versions)} versions of the index (its updates {updates})"]


def _variety(variety: Variety | None, config: Json) -> list[str]:
    """Describe what is common among the accepted rows."""
    if variety is None:
        return []
    return [
        f"{title:<12}" + ", ".join(f"{name} {number:,}" for name, number in counts)
        for title, counts in describe_variety(variety, config).items()
        if counts
    ]


def _coverage(figures: Coverage) -> list[str]:
    lines = []
    for level, label in ((figures["letters"], "categories"), (figures["categories"], "second-level branches")):
        divergence = "" if level["divergence"] is None else f", divergence {level['divergence']:.3f} bits"
        lines.append(
            f"coverage    {level['num_reached']} of the corpus' {level['num_in_corpus']} MeSH {label}{divergence}"
        )
    return lines


def _tokens(figures: TokenFigures) -> list[str]:
    by_agent = figures["by_agent"]
    lines = [f"tokens      {'calls':>8} {'prompt':>10} {'cached':>10} {'completion':>11}   first token, s: p50    p95"]
    for name, used in by_agent.items():
        first = f"{used['first_token']['p50']:>21.2f} {used['first_token']['p95']:>6.2f}"
        counts = f"{used['prompt']:>10,} {used['cached']:>10,} {used['completion']:>11,}"
        lines.append(f"  {name:<10}{used['calls']:>8} {counts}{first}")
    counts = f"{figures['prompt']:>10,} {figures['cached']:>10,} {figures['completion']:>11,}"
    lines.append(f"  {'all':<10}{'':>8} {counts}")
    lines.append(f"  {_share(figures['cached'], figures['prompt'])} of the prompt tokens came from the prefix cache")
    if num_cut := sum(used["with_contexts_cut"] for used in by_agent.values()):
        lines.append(f"  {num_cut:,} calls got fewer contexts than retrieval returned, so that their prompts would fit")
    return lines


def _time(manifest: RunManifest) -> list[str]:
    """Describe how the time was spent."""
    seconds, unit = manifest.seconds, manifest.cost["unit"]
    lines = [
        f"time        {seconds['total']:.0f} s, of which {seconds['engine_start']:.0f} s engine start; "
        f"{manifest.abstracts_per_second:.2f} abstracts/s once started"
    ]
    if manifest.sessions > 1 or manifest.restarts:
        lines.append(f"  in {manifest.sessions} sessions; engines restarted: {manifest.restarts}")
    for name, stage in manifest.engines.items():
        states = {
            "busy": stage["busy_share"],
            "starting": stage["start_share"],
            "waiting for retrieval": stage["retrieval_share"],
            "idle": stage["idle_share"],
        }
        shares = ", ".join(f"{state} {100 * share:.0f} %" for state, share in states.items())
        gpus = f"{stage['gpus']:g}" if stage["gpus"] else "no"
        lines.append(f"  {name}: {stage['replicas']} x {gpus} GPU: {shares}")
        lines.append(
            f"    {stage['output_tokens_per_second']:,.1f} output tokens/s and {stage['abstracts_per_second']:.3f} "
            f"abstracts/s per {unit}, {stage['calls_at_once']:.0f} calls at once"
        )
    return lines


def _cost(cost: Cost) -> list[str]:
    unit, price = cost["unit"], cost["price_per_million_abstracts"]
    return [
        f"  {100 * cost['not_accepted']:.0f} % of the engines' work went into rows that were not accepted",
        f"cost        {cost['hours']:,.2f} {unit}-hours, {cost['accepted_per_hour']:,.0f} accepted triples in each; "
        f"{cost['hours_per_million_abstracts']:,.0f} {unit}-hours per million abstracts"
        + ("" if price is None else f", at a price of {price:,.2f} per million"),
    ]


def _evaluation(figures: EvaluationFigures) -> list[str]:
    by = ", ".join(f"{name} {count:,}" for name, count in figures["preferred_by"].items())
    lines = [f"preferred by  {by}"] if by else []
    agreement, bias = figures["agreement"], figures["position_bias"]
    if agreement["share"] is not None:
        kappa = "-" if agreement["cohens_kappa"] is None else f"{agreement['cohens_kappa']:.2f}"
        lines.append(
            f"  rule and judge agree on {100 * agreement['share']:.0f} % of {agreement['rows']:,} rows, kappa {kappa}"
        )
    if bias["first"] is not None and bias["flipped"] is not None:
        lines.append(
            f"  judge: the candidate shown first gets {bias['first']:.2f} on average; the order changes the verdict in "
            f"{100 * bias['flipped']:.0f} % of {bias['rows']:,} rows"
        )
    return lines


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "-"


def format_examples(examples: Iterable[Record]) -> str:
    """Return triples as text for reading."""
    lines: list[str] = []
    for row in examples:
        lines += [
            f"── PMID {row['pmid']} " + "─" * (WIDTH - 9 - len(str(row["pmid"]))),
            *_set_out("abstract", f"{row['title']} {row['abstract']}", lines=3),
            *_set_out("question", f"{row['question']}  ({row['agent']}, preferred by {row['preferred_by']})"),
            *(line for passage in row["contexts"] for line in _set_out(*_label_passage(passage), lines=1)),
            *_set_out("answer", row["answer"] + (f"  [{row['decision']}]" if row["decision"] else "")),
        ]
    return "\n".join(lines)


def _label_passage(passage: Record) -> tuple[str, str]:
    return "source" if passage["is_source"] else "context", join_passage(passage["title"], passage["text"])


def format_lacks(num_of_before: int) -> str:
    """Return a line that says what records of an earlier version lack; empty if there are none."""
    if not num_of_before:
        return ""
    return (
        f"shown       {num_of_before:,} accepted records are of an earlier version, which always showed the source and "
        "did not\n            record where the titles of contexts end"
    )


def _set_out(label: str, text: str, lines: int | None = None) -> list[str]:
    return textwrap.wrap(
        _CONTROL.sub(" ", text),
        WIDTH,
        initial_indent=f"{label:>9}  ",
        subsequent_indent=" " * 11,
        max_lines=lines,
        placeholder=" …",
    )
