"""A uniform sample beside stratified ones, of a genuine PubMed file, and how fast they are drawn. Prints one JSON line.

    python benchmarks/evidence/sampling.py assets/pubmed20n0014.xml.gz [--mesh assets/mesh.tsv] [--picture sampling.png]

Samples: ``--budget`` of the documents with abstract and MeSH, uniform, and stratified by the second level with two
powers; counted by major headings, and by all. ``rare``: the rarest third of the branches, and the documents that they
have together, in the corpus and in the sample. ``fewest``: of the twelve rarest branches the documents in the sample.
Speed: of the pass (sketches, merge, draw) on one core, over the same documents ``copies`` times under new PMIDs, in
parts of at most 32,768, which lie in memory: reading Parquet is not in it. Each size has a process of its own, and
memory is the most that it held in the pass over what it held before.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kailin_ray.corpus.ingest.parse import tables
from kailin_ray.corpus.readers.pubmed_xml import read_citations
from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, draw, merge, sketch
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.figures import SampleFigures
from kailin_ray.mesh.headings import documents_with, subtree
from kailin_ray.mesh.plots import draw_sampling
from kailin_ray.versions import versions

COLUMNS = ["pmid", "year", "mesh"]
PART = 32_768


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shard", type=Path)
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--budget", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--copies", type=int, nargs="*", default=[1, 10, 100])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    table = documents(options.shard)
    mesh = MeshHierarchy.load(options.mesh)
    headings = pc.value_counts(pc.struct_field(pc.list_flatten(table["mesh"].combine_chunks()), "ui")).to_pylist()
    mesh = mesh.with_counts({one["values"]: one["counts"] for one in headings})
    designs = {"uniform": Design(budget=options.budget, seed=options.seed, major=True)} | {
        f"stratified, power {power}": Design(
            budget=options.budget, seed=options.seed, by="categories", major=True, power=power
        )
        for power in (0.5, 0.0)
    }
    reports = {name: sampled(table, mesh, design) for name, design in designs.items()}
    if options.picture:
        draw_sampling(dict(list(reports.items())[:2]), options.picture)
    every = {
        name: sampled(table, mesh, Design(**asdict(design) | {"major": False})) for name, design in designs.items()
    }
    neoplasms = documents_with(table["mesh"], mesh, subtree(mesh, ["Neoplasms"]))
    result = {
        "benchmark": "sampling",
        "file": options.shard.name,
        "num_documents": len(table),
        "under Neoplasms": int(neoplasms.sum()),
        "major headings": {name: summary(report) for name, report in reports.items()},
        "all headings": {name: summary(report) for name, report in every.items()},
        "speed": {
            name: [speed(table, mesh, designs[name], copies, options.runs) for copies in options.copies]
            for name in list(designs)[:2]
        },
        "machine": {"platform": platform.platform(), "cores": 1},
        "versions": versions(),
    }
    print(json.dumps(result))


def documents(shard: Path) -> pa.Table:
    """PMID, year and headings of the documents with abstract and MeSH."""
    rows = (row for row in read_citations(shard, Counter()) if row.abstract and row.mesh)
    return pa.concat_tables(tables(rows, shard.name)).select(COLUMNS)


def sampled(table: pa.Table, mesh: MeshHierarchy, design: Design) -> SampleFigures:
    """The report on one sample."""
    whole = merge([sketch(table, mesh, design)], design)
    return balance(whole, draw(whole, design), mesh, design)


def summary(report: SampleFigures) -> dict[str, Any]:
    """What a table shows of a report."""
    level = report["categories"]
    rows = sorted((row["documents_before"], row["documents_after"]) for row in level["branches"])
    there = [row for row in rows if row[0]]
    rare = np.array(there[: len(there) // 3])
    return {
        "reached": [level["num_reached"], level["num_in_corpus"]],
        "rare": {"branches": len(rare), "before": int(rare[:, 0].sum()), "after": int(rare[:, 1].sum())},
        "fewest": [after for _, after in there[:12]],
        "largest_share": level["largest_share"],
        "largest_stratum": report["strata"]["largest_share"],
        "entropy": level["entropy"],
        "divergence": level["divergence"],
    }


def speed(table: pa.Table, mesh: MeshHierarchy, design: Design, copies: int, runs: int) -> dict[str, Any]:
    """The median of ``runs`` passes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(_speed, (table, mesh, design, copies, runs)))


def _speed(table: pa.Table, mesh: MeshHierarchy, design: Design, copies: int, runs: int) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pa.set_cpu_count(1)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = _megabytes("VmRSS")
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        whole = merge((sketch(part, mesh, design) for part in parts(table, copies)), design)
        num_chosen = len(draw(whole, design))
        seconds.append(time.perf_counter() - started)
    num = len(table) * copies
    return {
        "documents": num,
        "chosen": num_chosen,
        "candidates": len(whole.candidates),
        "seconds": round(statistics.median(seconds), 3),
        "documents_per_second": round(num / statistics.median(seconds)),
        "peak_megabytes": round(_megabytes("VmHWM") - before),
    }


def parts(table: pa.Table, copies: int) -> Iterator[pa.Table]:
    """The documents ``copies`` times under new PMIDs, in parts; nothing but a part's PMIDs is made anew."""
    step = int(pc.max(table["pmid"]).as_py()) + 1
    for copy in range(copies):
        moved = table.set_column(0, "pmid", pc.add(table["pmid"], copy * step))
        for start in range(0, len(moved), PART):
            yield moved.slice(start, PART)


def _megabytes(name: str) -> float:
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1000


if __name__ == "__main__":
    main()
