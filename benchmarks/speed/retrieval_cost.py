"""Measure what retrieval costs a distillation, against known contexts. Prints one JSON line last.

    python benchmarks/speed/retrieval_cost.py [--limit 48] [--pairs 3] [distill overrides: model=… retrieval=…]

*retrieval*: the real `distill` command; its retriever encodes the questions and searches the index on the same cores.
*given*: the same command with the contexts of the first *retrieval* run, looked up in a dictionary in the engine's own
process, without encoder, index or another process. Retrieval cannot cost less, so this is the ceiling.

The sides take turns. All agents choose the likeliest token, in float32, so that questions and prompts are the same. The
share of equal prompts is counted by their hashes. Fewer rows run at once than there are, as in a long run. Seconds are
the engine's own, from its first call to its last: the time with calls in the engine, and the time without calls while
rows waited for contexts. The engine's start and its other idle time are left out.
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
DEFAULTS = ["retrieval=brief", "model.engine.dtype=float32", "cluster.block_rows=4", "cluster.max_concurrent_rows=16"]

Hits = dict[tuple[int, str], list[Hit]]
"""Passages by the PMID of the abstract and the question."""


class Given:
    """Replaces a retriever actor in the process of the asking engine; answers at once from known passages."""

    def __init__(self, hits: Hits):
        self._hits = hits

    @property
    def ready(self) -> Any:
        """Mimic an actor method: ``ready.options().remote()``."""
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: ray.put("here")))

    @property
    def search(self) -> Any:
        """Mimic an actor method: ``search.remote(queries)``."""
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
    keys += [f"limit={options.limit}", "evaluation.method=rule", *GREEDY, *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder, "retrieval-0")
        pairs = []
        for number in range(options.pairs):
            pair = {}
            for side in ("retrieval", "given"):
                out = Path(folder, f"{side}-{number}")
                given_arguments = [f"--given={first}", f"--demo={options.demo}", "--"] if side == "given" else []
                command = (
                    [sys.executable, __file__, *given_arguments]
                    if given_arguments
                    else [sys.executable, "-m", "kailin_ray", "distill"]
                )
                subprocess.run([*command, *keys, f"out={out}"], check=True, stdout=sys.stderr)
                pair[side] = measured(out) | {"same_prompts": same_prompts(out, first)}
            print(json.dumps(pair), file=sys.stderr)
            pairs.append(pair)
    print(json.dumps(summary(pairs, options), ensure_ascii=False))


def distil_given(first: Path, documents: Path, keys: list[str]) -> int:
    """Run the command ``distill`` with the contexts of the run ``first``; return its exit code."""
    hits = found_by(first, documents)
    distill: Any = pipeline.distill

    def with_given(*arguments: Any, **options: Any) -> None:
        distill(*arguments, retrievers=[Given(hits)], **options)

    pipeline.distill = with_given
    return run_command(["distill", *keys])


def found_by(first: Path, documents: Path) -> Hits:
    """Return the passages that a run retrieved, with their full text from the documents."""
    rows = records(first).to_table(columns=["pmid", "candidates"]).to_pylist()
    candidates = [(row["pmid"], candidate) for row in rows for candidate in row["candidates"] or []]
    pmids = {context["pmid"] for _, candidate in candidates for context in candidate["contexts"]}
    columns = ["pmid", "title", "abstract", "mesh"]
    paths = [str(path) for path in sorted(documents.glob("part-*.parquet"))]
    passages = ds.dataset(paths).to_table(columns=columns, filter=ds.field("pmid").isin(list(pmids))).to_pylist()
    texts = {
        row["pmid"]: (row["title"], row["abstract"], [heading["ui"] for heading in row["mesh"]]) for row in passages
    }
    return {
        (pmid, candidate["question"]): [
            Hit(hit["pmid"], hit["score"], *texts[hit["pmid"]]) for hit in candidate["contexts"]
        ]
        for pmid, candidate in candidates
    }


def measured(out: Path) -> dict[str, Any]:
    """Return seconds and tokens of a run's only engine, and the counts of its rows by status."""
    (stage,) = all_sessions(out)["stages"].values()
    statuses = records(out).to_table(columns=["status"])["status"].to_pylist()
    return {
        "seconds": round(stage["busy"] + stage["retrieval"], 2),
        "waiting_for_contexts": round(stage["retrieval"], 2),
        **{name: stage[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens")},
        "rows": dict(Counter(statuses)),
    }


def same_prompts(out: Path, first: Path) -> float:
    """Return the share of a run's calls whose prompt the same agent had for the same abstract in the run ``first``."""
    mine, other = (
        Counter(
            (row["pmid"], call["agent"], call["prompt_hash"])
            for row in records(run).to_table(columns=["pmid", "usage"]).to_pylist()
            for call in row["usage"]
        )
        for run in (out, first)
    )
    return round((mine & other).total() / max(mine.total(), other.total()), 4)


def summary(pairs: list[dict[str, dict[str, Any]]], options: argparse.Namespace) -> dict[str, Any]:
    """Return the sides' medians, and the speed with retrieval relative to the ceiling."""
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
