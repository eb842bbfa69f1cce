"""Compare uniform and stratified samples of a real PubMed file, and the speed of drawing. Prints one JSON line.

    python benchmarks/evidence/sampling.py assets/pubmed20n0014.xml.gz [--mesh assets/mesh.tsv] [--picture sampling.png]

A sample is ``--budget`` of the documents with abstract and MeSH: uniform, or stratified by the second level with two
powers, counted by major headings and by all headings. ``rare``: the rarest third of the branches, and the sum of their
documents in the corpus and in the sample. ``fewest``: the sample's documents in each of the twelve rarest branches.
Speed is that of the pass (sketches, merge, draw) on one core. The pass runs over the same documents ``copies`` times
under new PMIDs, in slices of at most 32,768 in memory, so reading Parquet does not count. Each size has a separate
process. Memory is the maximum of the process in the pass, minus its memory before.
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
    mesh = mesh.with_counts({count["values"]: count["counts"] for count in headings})
    designs = {"uniform": Design(size=options.budget, seed=options.seed, major_only=True)} | {
        f"stratified, power {power}": Design(
            size=options.budget, seed=options.seed, stratify_by="categories", major_only=True, alpha=power
        )
        for power in (0.5, 0.0)
    }
    reports = {name: sampled(table, mesh, design) for name, design in designs.items()}
    if options.picture:
        draw_sampling(dict(list(reports.items())[:2]), options.picture)
    all_reports = {
        name: sampled(table, mesh, Design(**asdict(design) | {"major_only": False})) for name, design in designs.items()
    }
    neoplasms = documents_with(table["mesh"], mesh, subtree(mesh, ["Neoplasms"]))
    result = {
        "benchmark": "sampling",
        "file": options.shard.name,
        "num_documents": len(table),
        "under Neoplasms": int(neoplasms.sum()),
        "major headings": {name: summary(report) for name, report in reports.items()},
        "all headings": {name: summary(report) for name, report in all_reports.items()},
        "speed": {
            name: [speed(table, mesh, designs[name], copies, options.runs) for copies in options.copies]
            for name in list(designs)[:2]
        },
        "machine": {"platform": platform.platform(), "cores": 1},
        "versions": versions(),
    }
    print(json.dumps(result))


def documents(shard: Path) -> pa.Table:
    """Return PMID, year and headings of the documents with abstract and MeSH."""
    rows = (row for row in read_citations(shard, Counter()) if row.abstract and row.mesh)
    return pa.concat_tables(tables(rows, shard.name)).select(COLUMNS)


def sampled(table: pa.Table, mesh: MeshHierarchy, design: Design) -> SampleFigures:
    """Draw one sample and return the report on it."""
    whole = merge([sketch(table, mesh, design)], design)
    return balance(whole, draw(whole, design), mesh, design)


def summary(report: SampleFigures) -> dict[str, Any]:
    """Return the figures of a report that a table shows."""
    level = report["categories"]
    rows = sorted((row["documents_before"], row["documents_after"]) for row in level["branches"])
    present = [row for row in rows if row[0]]
    rare = np.array(present[: len(present) // 3])
    return {
        "reached": [level["num_reached"], level["num_in_corpus"]],
        "rare": {"branches": len(rare), "before": int(rare[:, 0].sum()), "after": int(rare[:, 1].sum())},
        "fewest": [after for _, after in present[:12]],
        "largest_share": level["largest_share"],
        "largest_stratum": report["strata"]["largest_share"],
        "entropy": level["entropy"],
        "divergence": level["divergence"],
    }


def speed(table: pa.Table, mesh: MeshHierarchy, design: Design, copies: int, runs: int) -> dict[str, Any]:
    """Measure ``runs`` passes in a separate process; return the median figures."""
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
        whole = merge((sketch(chunk, mesh, design) for chunk in parts(table, copies)), design)
        num_chosen = len(draw(whole, design))
        seconds.append(time.perf_counter() - started)
    num_documents = len(table) * copies
    return {
        "documents": num_documents,
        "chosen": num_chosen,
        "candidates": len(whole.candidates),
        "seconds": round(statistics.median(seconds), 3),
        "documents_per_second": round(num_documents / statistics.median(seconds)),
        "peak_megabytes": round(_megabytes("VmHWM") - before),
    }


def parts(table: pa.Table, copies: int) -> Iterator[pa.Table]:
    """Yield the documents ``copies`` times under new PMIDs, in slices; only the PMIDs of a slice are new data."""
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
