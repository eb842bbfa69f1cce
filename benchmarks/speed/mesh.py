"""Measure how fast descriptors are compared, and nxontology on the same pairs. Prints one JSON line last.

    python benchmarks/speed/mesh.py [--runs 5] [--documents demo/documents] [--mesh assets/mesh.tsv]

Sources are real documents with 12 to 17 descriptors in the hierarchy. Each source is compared with 4 contexts of 2
candidates, as in the evaluation agent. The process uses one core. ``arrow`` takes UIs as they are stored, ``numbers``
takes descriptor numbers from ``find``. nxontology 0.5 compares only the first tree number of each descriptor, which is
less work than all of its tree numbers. *cold* is a pair seen for the first time, *memoised* the same pairs once more.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import networkx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from nxontology import NXOntology

from kailin_ray.io.cache import CACHE
from kailin_ray.io.files import read_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.similarity import MEASURES
from kailin_ray.versions import versions

NUM_SOURCES, NUM_CONTEXTS, NX_PAIRS = 20_000, 8, 100_000


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, default=Path("demo/documents"), help="a folder made by ingest")
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--runs", type=int, default=5, help="the medians are reported")
    options = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    load = loading(options.mesh, options.runs)
    counts = {ui: heading["documents"] for ui, heading in read_json(options.documents / "descriptors.json").items()}
    mesh = MeshHierarchy.load(options.mesh).with_counts(counts)
    sources, contexts, pairs = compared(mesh, options.documents)
    rates = {
        f"{measure}, {aggregate}": rate(partial(mesh.score, sources, contexts, measure, aggregate), pairs, options.runs)
        for measure in MEASURES
        for aggregate in ("bma", "mean")
    }
    source_numbers, target_numbers = ((sets.offsets.to_numpy(), mesh.find(sets.values)) for sets in (sources, contexts))
    number_rate = rate(lambda: mesh.score(source_numbers, target_numbers), pairs, options.runs)
    cold, memoised = nxontology(mesh, source_numbers, target_numbers, options.runs)
    result = {
        "benchmark": "mesh",
        "num_documents": NUM_SOURCES,
        "num_descriptor_pairs": pairs,
        "descriptors_per_source": round(pairs_per_row(mesh, sources), 1),
        "million_pairs_per_second_and_core": {"arrow": rates, "numbers, lin, bma": number_rate},
        "nxontology_lin_pairs_per_second": {"cold": cold, "memoised": memoised},
        "ratio_to_nxontology_cold": round(rates["lin, bma"] * 1e6 / cold),
        "ratio_to_nxontology_memoised": round(rates["lin, bma"] * 1e6 / memoised),
        "load": load,
        "array_megabytes": round(mesh.nbytes / 1e6, 1),
        "machine": {"cpu": cpu(), "platform": platform.platform()},
        "versions": versions() | {name: importlib.metadata.version(name) for name in ("nxontology", "numpy", "numba")},
    }
    print(json.dumps(result))


def compared(mesh: MeshHierarchy, documents: Path) -> tuple[pa.ListArray, pa.ListArray, int]:
    """Return sources and contexts (n rows), and the number of pairs of placed descriptors."""
    column = ds.dataset(sorted(documents.glob("part-*.parquet"))).to_table(columns=["mesh"])["mesh"].combine_chunks()
    uis = pa.ListArray.from_arrays(column.offsets, pc.struct_field(column.values, "ui"))
    sizes = placed(mesh, uis)
    dice = np.random.default_rng(0)
    usual = np.flatnonzero((sizes >= 12) & (sizes <= 17))
    source = np.repeat(dice.choice(usual, NUM_SOURCES), NUM_CONTEXTS)
    context = dice.choice(usual, len(source))
    return uis.take(pa.array(source)), uis.take(pa.array(context)), int((sizes[source] * sizes[context]).sum())


def placed(mesh: MeshHierarchy, uis: pa.ListArray) -> np.ndarray:
    """Return (n,) the number of descriptors with tree numbers in each set."""
    numbers = mesh.find(uis.values)
    is_placed = np.append((numbers >= 0) & (np.diff(mesh.ancestor_offsets) > 0)[numbers], False)
    total = np.concatenate([[0], np.cumsum(is_placed)])
    offsets = uis.offsets.to_numpy()
    return total[offsets[1:]] - total[offsets[:-1]]


def pairs_per_row(mesh: MeshHierarchy, sources: pa.ListArray) -> float:
    """Return the mean number of placed descriptors of a source."""
    return float(placed(mesh, sources).mean())


def rate(call: Callable[[], Any], pairs: int, runs: int) -> float:
    """Return million pairs a second: the median of ``runs`` calls after a warm-up call."""
    call()
    return round(pairs / statistics.median(timed(call) for _ in range(runs)) / 1e6, 1)


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def nxontology(mesh: MeshHierarchy, one: Any, two: Any, runs: int) -> tuple[int, int]:
    """Return nxontology's pairs a second, cold and memoised, on the first tree numbers of the same descriptors."""
    first = dict(zip(mesh.tree_holder[::-1].tolist(), mesh.tree_numbers[::-1].tolist(), strict=True))
    tree_pairs: set[tuple[str, str]] = set()
    for row in range(len(one[0]) - 1):
        a, b = (values[offsets[row] : offsets[row + 1]].tolist() for offsets, values in (one, two))
        tree_pairs |= {(first[x].decode(), first[y].decode()) for x in a for y in b if x in first and y in first}
        if len(tree_pairs) >= NX_PAIRS:
            break
    pairs = sorted(tree_pairs)
    trees = [tree.decode() for tree in mesh.tree_numbers.tolist()]
    times = []
    for _ in range(max(1, runs // 2)):
        ontology: Any = NXOntology()
        ontology.graph = networkx.DiGraph((tree.rpartition(".")[0] or tree[0], tree) for tree in trees)
        ontology.graph.add_edges_from(("MeSH", letter) for letter in {tree[0] for tree in trees})
        ontology.freeze()
        times.append([timed(partial(nxontology_lin, ontology, pairs)) for _ in range(2)])
    cold, memoised = (statistics.median(column) for column in zip(*times, strict=True))
    return round(len(pairs) / cold), round(len(pairs) / memoised)


def nxontology_lin(ontology: Any, pairs: list[tuple[str, str]]) -> list[float]:
    """Return the Lin similarity of every pair."""
    return [ontology.similarity(a, b).lin for a, b in pairs]


def loading(source: Path, runs: int) -> dict[str, float]:
    """Return the seconds to parse a hierarchy, and to read it from the cache."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {CACHE: folder}):
        parsed = timed(lambda: MeshHierarchy.load(source))
        cached = statistics.median(timed(lambda: MeshHierarchy.load(source)) for _ in range(runs))
    return {"parse_seconds": round(parsed, 2), "cache_seconds": round(cached, 3)}


def cpu() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
