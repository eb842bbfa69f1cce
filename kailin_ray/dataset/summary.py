"""What a person looks at after a run: counts, tokens, speed, and a few triples set out for reading."""

import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from kailin_ray.config import ReportConfig
from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import Record, triple
from kailin_ray.dataset.run import Cost, EvaluationFigures, Run, RunManifest, TokenFigures
from kailin_ray.io.storage import check_access
from kailin_ray.mesh.figures import Coverage
from kailin_ray.schema import OK, REASONS

WIDTH = 100
# A terminal would obey them: colours, titles, text that overwrites or reverses what stands beside it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Report:
    """What ``report`` found."""

    run: Run
    examples: tuple[Record, ...]
    """Accepted triples."""


def report(config: ReportConfig) -> Report:
    """Open a complete run and take some of its triples. Raises ``ConfigError`` if it is not complete."""
    check_access("run", config.run)
    run = Run.open(config.run)
    return Report(run=run, examples=tuple(take_examples(run.path, config.examples)))


def take_examples(run: Path, number: int) -> list[Record]:
    """The first triples of a run."""
    accepted = (row for batch in record_batches(run, size=64) for row in batch.to_pylist() if row["status"] == OK)
    return [triple(row) for row in islice(accepted, number)]


def format_summary(made: RunManifest) -> str:
    """The figures of a run, as a person reads them."""
    return "\n".join(
        [
            *_counts(made),
            *_evaluation(made.evaluation),
            *_coverage(made.coverage),
            *_tokens(made.tokens),
            *_time(made),
            *_cost(made.cost),
        ]
    )


def _counts(made: RunManifest) -> list[str]:
    total = made.num_documents
    lines = [f"{total:,} abstracts"]
    lines += [f"  {name:<9}{number:>8,}  {_share(number, total)}" for name, number in made.num_by_status.items()]
    if made.num_by_reason:
        lines.append("not accepted because")
        lines += [f"  {number:>5,}  {name}: {REASONS[name]}" for name, number in made.num_by_reason.items()]
    return lines


def _coverage(found: Coverage) -> list[str]:
    lines = []
    for level, label in ((found["letters"], "categories"), (found["categories"], "second-level branches")):
        apart = "" if level["divergence"] is None else f", divergence {level['divergence']:.3f} bits"
        lines.append(f"coverage    {level['num_reached']} of the corpus' {level['num_in_corpus']} MeSH {label}{apart}")
    return lines


def _tokens(found: TokenFigures) -> list[str]:
    by_agent = found["by_agent"]
    lines = [f"tokens      {'calls':>8} {'prompt':>10} {'cached':>10} {'completion':>11}   first token, s: p50    p95"]
    for name, used in by_agent.items():
        first = f"{used['first_token']['p50']:>21.2f} {used['first_token']['p95']:>6.2f}"
        counts = f"{used['prompt']:>10,} {used['cached']:>10,} {used['completion']:>11,}"
        lines.append(f"  {name:<10}{used['calls']:>8} {counts}{first}")
    counts = f"{found['prompt']:>10,} {found['cached']:>10,} {found['completion']:>11,}"
    lines.append(f"  {'all':<10}{'':>8} {counts}")
    lines.append(f"  {_share(found['cached'], found['prompt'])} of the prompt tokens came from the prefix cache")
    if cut := sum(used["with_contexts_cut"] for used in by_agent.values()):
        lines.append(f"  {cut:,} calls were shown fewer contexts than were found, so that their prompts would fit")
    return lines


def _time(made: RunManifest) -> list[str]:
    """Where the time went."""
    seconds, unit = made.seconds, made.cost["unit"]
    lines = [
        f"time        {seconds['total']:.0f} s, of which {seconds['engine_start']:.0f} s engine start; "
        f"{made.abstracts_per_second:.2f} abstracts/s once started"
    ]
    if made.sessions > 1 or made.restarts:
        lines.append(f"  in {made.sessions} sessions; engines restarted: {made.restarts}")
    for name, stage in made.engines.items():
        doing = {
            "busy": stage["busy_share"],
            "starting": stage["start_share"],
            "waiting for retrieval": stage["retrieval_share"],
            "idle": stage["idle_share"],
        }
        shares = ", ".join(f"{word} {100 * share:.0f} %" for word, share in doing.items())
        gpus = f"{stage['gpus']:g}" if stage["gpus"] else "no"
        lines.append(f"  {name}: {stage['replicas']} x {gpus} GPU: {shares}")
        lines.append(
            f"    {stage['output_tokens_per_second']:,.1f} output tokens/s and {stage['abstracts_per_second']:.3f} "
            f"abstracts/s each {unit}, {stage['calls_at_once']:.0f} calls at once"
        )
    return lines


def _cost(cost: Cost) -> list[str]:
    unit, price = cost["unit"], cost["price_per_million_abstracts"]
    return [
        f"  {100 * cost['not_accepted']:.0f} % of the engines' work went into rows that were not accepted",
        f"cost        {cost['hours']:,.2f} {unit}-hours; {cost['accepted_per_hour']:,.0f} accepted triples each; "
        f"{cost['hours_per_million_abstracts']:,.0f} {unit}-hours a million abstracts"
        + ("" if price is None else f", {price:,.2f} in money"),
    ]


def _evaluation(found: EvaluationFigures) -> list[str]:
    by = ", ".join(f"{name} {number:,}" for name, number in found["preferred_by"].items())
    lines = [f"preferred by  {by}"] if by else []
    same, bias = found["agreement"], found["position_bias"]
    if same["share"] is not None:
        kappa = "-" if same["cohens_kappa"] is None else f"{same['cohens_kappa']:.2f}"
        lines.append(f"  rule and judge agree on {100 * same['share']:.0f} % of {same['rows']:,} rows, kappa {kappa}")
    if bias["first"] is not None and bias["flipped"] is not None:
        lines.append(
            f"  the judge gives what is shown first {bias['first']:.2f}, and flips with the order in "
            f"{100 * bias['flipped']:.0f} % of {bias['rows']:,} rows"
        )
    return lines


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def format_examples(examples: Iterable[Record]) -> str:
    """Triples set out for reading."""
    lines: list[str] = []
    for made in examples:
        lines += [
            f"── PMID {made['pmid']} " + "─" * (WIDTH - 9 - len(str(made["pmid"]))),
            *_set_out("abstract", f"{made['title']} {made['abstract']}", lines=3),
            *_set_out("question", f"{made['question']}  ({made['agent']}, preferred by {made['preferred_by']})"),
            *(line for text in made["contexts"] for line in _set_out("context", text, lines=1)),
            *_set_out("answer", made["answer"] + (f"  [{made['decision']}]" if made["decision"] else "")),
        ]
    return "\n".join(lines)


def _set_out(label: str, text: str, lines: int | None = None) -> list[str]:
    return textwrap.wrap(
        _CONTROL.sub(" ", text),
        WIDTH,
        initial_indent=f"{label:>9}  ",
        subsequent_indent=" " * 11,
        max_lines=lines,
        placeholder=" …",
    )
