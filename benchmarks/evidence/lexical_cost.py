r"""Measure the cost of BM25 as the passages grow: build time, bytes, queries per second. Prints one JSON.

    python benchmarks/evidence/lexical_cost.py --documents documents --pubmedqa pubmedqa.jsonl.gz \
        --sizes 10000 33272 1000000

The queries are PubMedQA's questions. Passages beyond the documents are mixtures: the first half of the sentences of one
abstract and the second half of another abstract. Lengths and the share of passages with a term are as in the abstracts,
but more passages do not bring new terms. Times are by the clock, in one thread; the CPU seconds show other load.
"""

import argparse
import gzip
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from passages import mixtures, with_abstract

from kailin_ray.retrieval.search.lexical import LexicalIndex, build_lexical
from kailin_ray.versions import versions

CANDIDATES = 100
"""Passages per query; this many are fused and re-ranked."""
BATCHES = (1, 32, 256)


@dataclass(frozen=True)
class Built:
    """A lexical index in ``folder``, and its build time: by the clock, and in CPU seconds of all threads."""

    folder: Path
    seconds: float
    cpu_seconds: float


def build(tables: list[pa.Table], folder: Path) -> Built:
    """Build a lexical index and measure the time."""
    start, cpu = time.perf_counter(), time.process_time()
    build_lexical(tables, folder)
    return Built(folder, time.perf_counter() - start, time.process_time() - cpu)


def cost(built: Built, asked: list[str]) -> dict[str, Any]:
    """Return build time, bytes, and queries per second (the best of 3) for the first CANDIDATES passages."""
    index = LexicalIndex(built.folder)
    size = sum(file.stat().st_size for file in built.folder.iterdir())
    rates, least_cpu = {}, np.inf
    for batch in BATCHES:
        best = np.inf
        for _ in range(3):
            start, cpu = time.perf_counter(), time.process_time()
            for first in range(0, len(asked), batch):
                index.search_many(asked[first : first + batch], CANDIDATES)
            best = min(best, time.perf_counter() - start)
            least_cpu = min(least_cpu, time.process_time() - cpu)
        rates[f"batch {batch}"] = round(len(asked) / best, 1)
    return {
        "passages": index.num_passages,
        "build_seconds": round(built.seconds, 2),
        "build_cpu_seconds": round(built.cpu_seconds, 2),
        "bytes_per_passage": round(size / index.num_passages, 1),
        "queries_per_second": rates,
        "queries_per_cpu_second": round(len(asked) / least_cpu, 1),
    }


def grown(table: pa.Table, size: int, asked: list[str]) -> dict[str, Any]:
    """Return the cost at ``size`` passages: documents, and mixtures if there are too few documents."""
    real = table.slice(0, size).select(["pmid", "title", "text"])
    tables = [real, *mixtures(table, size - len(real))]
    with tempfile.TemporaryDirectory() as name:
        return {"real": len(real)} | cost(build(tables, Path(name)), asked)


def main() -> None:
    """Build an index and query it at each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, required=True, help="a folder made by ingest")
    parser.add_argument("--pubmedqa", type=Path, required=True, help="JSON lines with question, gzipped")
    parser.add_argument("--sizes", type=int, nargs="+", required=True)
    options = parser.parse_args()
    table = with_abstract(options.documents)
    with gzip.open(options.pubmedqa, "rt", encoding="utf-8") as stream:
        questions = [json.loads(line)["question"] for line in stream]
    sizes = [grown(table, size, questions) for size in options.sizes]
    print(json.dumps({"benchmark": "lexical_cost", "sizes": sizes, "versions": versions()}))


if __name__ == "__main__":
    main()
