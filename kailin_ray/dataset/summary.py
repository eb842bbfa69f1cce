"""What a person looks at after a run: counts, tokens, speed, and a few triples set out for reading."""

import re
import textwrap
from itertools import islice
from pathlib import Path
from typing import Any

from kailin_ray.dataset.records import record_batches
from kailin_ray.dataset.rows import triple
from kailin_ray.io.files import read_manifest
from kailin_ray.schema import OK, REASONS

WIDTH = 100
# A terminal would obey them: colours, titles, text that overwrites or reverses what stands beside it.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STATES = {"busy": "busy", "start": "starting", "retrieval": "waiting for retrieval", "idle": "idle"}


def report(run: Path, examples: int) -> str:
    """The summary of a complete run. Raises ``ConfigError`` if it is not complete."""
    return "\n".join([*_summary(read_manifest(run, "run", "run", "distill")), "", *_examples(run, examples)])


def _summary(manifest: dict[str, Any]) -> list[str]:
    total, tokens = manifest["num_documents"], manifest["tokens"]
    lines = [f"{total:,} abstracts"]
    lines += [f"  {name:<9}{number:>8,}  {_share(number, total)}" for name, number in manifest["num_by_status"].items()]
    if manifest["num_by_reason"]:
        lines.append("not accepted because")
        lines += [f"  {number:>5,}  {name}: {REASONS[name]}" for name, number in manifest["num_by_reason"].items()]
    lines += _evaluation(manifest["evaluation"])
    for name, label in (("letters", "categories"), ("categories", "second-level branches")):
        level = manifest["coverage"][name]
        apart = "" if level["divergence"] is None else f", divergence {level['divergence']:.3f} bits"
        lines.append(f"coverage    {level['num_reached']} of the corpus' {level['num_in_corpus']} MeSH {label}{apart}")
    lines.append(
        f"tokens      {'calls':>8} {'prompt':>10} {'cached':>10} {'completion':>11}   first token, s: p50    p95"
    )
    for name, used in [*tokens["by_agent"].items(), ("all", tokens)]:
        counts = f"{used['prompt']:>10,} {used['cached']:>10,} {used['completion']:>11,}"
        first = "{p50:>21.2f} {p95:>6.2f}".format(**used["first_token"]) if "first_token" in used else ""
        lines.append(f"  {name:<10}{used.get('calls', ''):>8} {counts}{first}")
    lines.append(f"  {_share(tokens['cached'], tokens['prompt'])} of the prompt tokens came from the prefix cache")
    cut = sum(used["with_contexts_cut"] for used in tokens["by_agent"].values())
    if cut:
        lines.append(f"  {cut:,} calls were shown fewer contexts than were found, so that their prompts would fit")
    return lines + _time(manifest)


def _time(manifest: dict[str, Any]) -> list[str]:
    """Where the time went, and what it cost."""
    seconds, cost = manifest["seconds"], manifest["cost"]
    unit = cost["unit"]
    lines = [
        f"time        {seconds['total']:.0f} s, of which {seconds['engine_start']:.0f} s engine start; "
        f"{manifest['abstracts_per_second']:.2f} abstracts/s once started"
    ]
    if manifest["sessions"] > 1 or manifest["restarts"]:
        lines.append(f"  in {manifest['sessions']} sessions; engines restarted: {manifest['restarts']}")
    for name, stage in manifest["engines"].items():
        shares = ", ".join(f"{word} {100 * stage[f'{key}_share']:.0f} %" for key, word in _STATES.items())
        lines.append(f"  {name}: {stage['replicas']} x {stage['gpus'] or 'no'} GPU: {shares}")
        lines.append(
            f"    {stage['output_tokens_per_second']:,.1f} output tokens/s and {stage['abstracts_per_second']:.3f} "
            f"abstracts/s each {unit}, {stage['calls_at_once']:.0f} calls at once"
        )
    lines.append(f"  {100 * cost['not_accepted']:.0f} % of the engines' work went into rows that were not accepted")
    price = cost["price_per_million_abstracts"]
    lines.append(
        f"cost        {cost['hours']:,.2f} {unit}-hours; {cost['accepted_per_hour']:,.0f} accepted triples each; "
        f"{cost['hours_per_million_abstracts']:,.0f} {unit}-hours a million abstracts"
        + ("" if price is None else f", {price:,.2f} in money")
    )
    return lines


def _evaluation(found: dict[str, Any]) -> list[str]:
    by = ", ".join(f"{name} {number:,}" for name, number in found["preferred_by"].items())
    lines = [f"preferred by  {by}"] if by else []
    same, bias = found["agreement"], found["position_bias"]
    if same["rows"]:
        kappa = "-" if same["cohens_kappa"] is None else f"{same['cohens_kappa']:.2f}"
        lines.append(f"  rule and judge agree on {100 * same['share']:.0f} % of {same['rows']:,} rows, kappa {kappa}")
    if bias["rows"]:
        lines.append(
            f"  the judge gives what is shown first {bias['first']:.2f}, and flips with the order in "
            f"{100 * bias['flipped']:.0f} % of {bias['rows']:,} rows"
        )
    return lines


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"


def _examples(run: Path, number: int) -> list[str]:
    accepted = (row for batch in record_batches(run, size=64) for row in batch.to_pylist() if row["status"] == OK)
    lines: list[str] = []
    for row in islice(accepted, number):
        made = triple(row)
        lines += [
            f"── PMID {made['pmid']} " + "─" * (WIDTH - 9 - len(str(made["pmid"]))),
            *_set_out("abstract", f"{made['title']} {made['abstract']}", lines=3),
            *_set_out("question", f"{made['question']}  ({made['agent']}, preferred by {made['preferred_by']})"),
            *(line for text in made["contexts"] for line in _set_out("context", text, lines=1)),
            *_set_out("answer", made["answer"] + (f"  [{made['decision']}]" if made["decision"] else "")),
        ]
    return lines


def _set_out(label: str, text: str, lines: int | None = None) -> list[str]:
    return textwrap.wrap(
        _CONTROL.sub(" ", text),
        WIDTH,
        initial_indent=f"{label:>9}  ",
        subsequent_indent=" " * 11,
        max_lines=lines,
        placeholder=" …",
    )
