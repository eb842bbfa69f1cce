"""What retrieval costs a distillation: the same one with contexts given beforehand. Prints one JSON line last.

    python benchmarks/speed/retrieval_cost.py [--limit 48] [--pairs 3] [distill overrides: model=… retrieval=…]

*retrieval*: the real `distill` command; its retriever encodes the questions and searches the index on the same cores.
*given*: the same command with the contexts that the first of these runs found, looked up in a dictionary in the
engine's own process: no encoder, no index, no other process. Nothing can be asked for less, so this is the ceiling.

The sides take turns. All agents choose the likeliest token, in float32, so that questions and prompts are the same;
how many prompts are is counted, by their hashes. Rows come one after another, fewer at once than there are, as in a
long run. Seconds are the engine's own from its first call to its last: those with calls in it, and those in which it
had none and rows waited for contexts. Its start, and what is idle, are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.dataset as ds
import ray

from kailin_ray.cli.main import run_command
from kailin_ray.dataset.records import records
from kailin_ray.distill import pipeline
from kailin_ray.distill.accounting import all_sessions
from kailin_ray.retrieval.retriever import Query
from kailin_ray.retrieval.search.index import Hit
from kailin_ray.versions import versions

GREEDY = [f"model.{agent}.sampling.temperature=0" for agent in ("general", "biomedical", "answer")]
DEFAULTS = ["retrieval=brief", "model.engine.dtype=float32", "cluster.rows_per_block=4", "cluster.rows_in_flight=16"]

Hits = dict[tuple[int, str], list[Hit]]
"""Passages by the PMID of the abstract and the question."""


class Given:
    """Stands for a retriever actor, in the process of whoever asks; answers at once from what it was given."""

    def __init__(self, hits: Hits):
        self._hits = hits

    @property
    def ready(self) -> Any:
        """As an actor's method is called."""
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: ray.put("here")))

    @property
    def search(self) -> Any:
        """As an actor's method is called."""
        return SimpleNamespace(remote=self._search)

    async def _search(self, queries: list[Query]) -> list[list[Hit]]:
        return [self._hits[pmid or 0, question] for question, _, pmid in queries]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=48, help="abstracts")
    parser.add_argument("--pairs", type=int, default=3, help="the medians are reported")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    parser.add_argument("--given", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", default=DEFAULTS)
    options = parser.parse_args()
    if options.given:
        sys.exit(distil_given(options.given, options.demo / "documents", options.overrides))
    keys = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    keys += [f"limit={options.limit}", "evaluation.by=rule", *GREEDY, *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "retrieval-0")
        pairs = []
        for number in range(options.pairs):
            pair = {}
            for side in ("retrieval", "given"):
                out = Path(folder, f"{side}-{number}")
                given = [f"--given={first}", f"--demo={options.demo}", "--"] if side == "given" else []
                command = (
                    [sys.executable, __file__, *given] if given else [sys.executable, "-m", "kailin_ray", "distill"]
                )
                subprocess.run([*command, *keys, f"out={out}"], check=True, stdout=sys.stderr)
                pair[side] = measured(out) | {"same_prompts": same_prompts(out, first)}
            print(json.dumps(pair), file=sys.stderr)
            pairs.append(pair)
    print(json.dumps(summary(pairs, options), ensure_ascii=False))


def distil_given(first: Path, documents: Path, keys: list[str]) -> int:
    """The command ``distill`` with the contexts of the run ``first``."""
    hits = found_by(first, documents)
    distill: Any = pipeline.distill

    def with_given(*arguments: Any, **options: Any) -> None:
        distill(*arguments, retrievers=[Given(hits)], **options)

    pipeline.distill = with_given
    return run_command(["distill", *keys])


def found_by(first: Path, documents: Path) -> Hits:
    """The passages that a run found, whole, from the documents."""
    rows = records(first).to_table(columns=["pmid", "candidates"]).to_pylist()
    asked = [(row["pmid"], one) for row in rows for one in row["candidates"] or []]
    pmids = {context["pmid"] for _, one in asked for context in one["contexts"]}
    columns = ["pmid", "title", "abstract", "mesh"]
    parts = [str(path) for path in sorted(documents.glob("part-*.parquet"))]
    found = ds.dataset(parts).to_table(columns=columns, filter=ds.field("pmid").isin(list(pmids))).to_pylist()
    texts = {row["pmid"]: (row["title"], row["abstract"], [heading["ui"] for heading in row["mesh"]]) for row in found}
    return {
        (pmid, one["question"]): [Hit(hit["pmid"], hit["score"], *texts[hit["pmid"]]) for hit in one["contexts"]]
        for pmid, one in asked
    }


def measured(out: Path) -> dict[str, Any]:
    """Seconds and tokens of a run's only engine, and what became of its rows."""
    (stage,) = all_sessions(out)["stages"].values()
    statuses = records(out).to_table(columns=["status"])["status"].to_pylist()
    return {
        "seconds": round(stage["busy"] + stage["retrieval"], 2),
        "waiting_for_contexts": round(stage["retrieval"], 2),
        **{name: stage[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        "rows": dict(Counter(statuses)),
    }


def same_prompts(out: Path, first: Path) -> float:
    """The share of a run's calls with a prompt that the same agent was shown for the same abstract in another run."""
    mine, other = (
        Counter(
            (row["pmid"], call["agent"], call["prompt_hash"])
            for row in records(one).to_table(columns=["pmid", "usage"]).to_pylist()
            for call in row["usage"]
        )
        for one in (out, first)
    )
    return round((mine & other).total() / max(mine.total(), other.total()), 4)


def summary(pairs: list[dict[str, dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """The sides' medians, and how fast distilling with retrieval is beside the ceiling."""
    ratios = [round(pair["given"]["seconds"] / pair["retrieval"]["seconds"], 4) for pair in pairs]
    seconds = {side: statistics.median(pair[side]["seconds"] for pair in pairs) for side in pairs[0]}
    return {
        "benchmark": "retrieval_cost",
        "num_abstracts": options.limit,
        "speed_of_given": statistics.median(ratios),
        "of_medians": round(seconds["given"] / seconds["retrieval"], 4),
        "ratios": ratios,
        "seconds": seconds,
        "pairs": pairs,
        "overrides": options.overrides,
        "cores": os.cpu_count(),
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
