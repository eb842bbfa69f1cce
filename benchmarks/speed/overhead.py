"""Measure the cost of the pipeline itself: real abstracts, an engine that answers at once. Prints one JSON line last.

    python benchmarks/speed/overhead.py [--sizes 1000 10000] [--replicas 1 4 16] [--demo demo]

Everything except the models is the pipeline's own: Ray Data, actors, coroutines, checks of the outputs, MeSH scores,
records on disk. The engine replies with made-up text that passes the checks, and the retriever returns random passages.
So no tokenizer, encoder or model counts. Blocks and concurrent rows are those of ``conf/cluster/gpu.yaml``.

*cpu_ms_per_abstract*: the extra CPU time of the whole machine from one size to the next, divided by the extra rows.
This leaves out the start-up, and includes everything else that the machine does. *driver_mb*: the private memory of the
driver when the work began, and its maximum during the work. *actor_mb*: the maximum of an engine's actor.
*efficiency*: abstracts a second of this many replicas once all are up, relative to what they could do without a
pipeline. Their engine takes as long as a GPU would: ``--latency`` seconds an abstract, 128 at once.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
from hydra import compose, initialize_config_dir

from kailin_ray.config import DistillConfig, check, conf_dir
from kailin_ray.corpus.documents import Documents
from kailin_ray.distill.accounting import all_sessions
from kailin_ray.distill.pipeline import check_complete, distill, find_work
from kailin_ray.engines.interface import Generation
from kailin_ray.io.files import read_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.plan import make_plan
from kailin_ray.planning.pools import Node
from kailin_ray.retrieval.retriever import Query
from kailin_ray.retrieval.search.index import Hit
from kailin_ray.runtime.session import ray_session
from kailin_ray.versions import versions

ROWS_PER_PART = 10_000
ROWS_AT_ONCE, ROWS_PER_BLOCK = 128, 32
"""For an engine with a latency; the other engine uses the values of ``conf/cluster/gpu.yaml``."""
STEPS = 3
"""Steps of an abstract, one after another: both questions at once, the answer, the decision."""
CPUS = 4
ROUNDS = 8
"""Abstracts for each row that an engine with a latency handles at once."""


class FakeEngine:
    """Replies to every prompt at once, or after ``latency`` seconds, with text that the agents accept."""

    def __init__(self, latency: float):
        self._latency = latency
        self._room = asyncio.Semaphore(ROWS_AT_ONCE * 2)  # the two questions are asked at the same time

    def shutdown(self) -> None:
        """Nothing to stop."""

    async def generate(
        self, messages: Sequence[dict[str, str]], sampling: dict[str, Any], adapter: str | None = None
    ) -> Generation:
        """Return a question made of the abstract's first words, or a sentence."""
        content = messages[-1]["content"]
        asks = "Evidence from other abstracts" not in content
        words = [word for word in content[:400].split() if word.isalpha() and len(word) > 5][1:6]
        ending = "effect" if "yes/no" in content else "mechanism"
        text = f"Does {' '.join(words)} have an {ending}?" if asks else "It had an effect in the patients who took it."
        return await self._reply(text, {})

    async def choose(
        self, messages: Sequence[dict[str, str]], words: Sequence[str], adapter: str | None = None
    ) -> Generation:
        """Prefer the first word slightly."""
        share = 1 / (len(words) + 1)
        return await self._reply(words[0], {word: share * (2 if word == words[0] else 1) for word in words})

    async def _reply(self, text: str, probabilities: dict[str, float]) -> Generation:
        if self._latency:
            async with self._room:
                await asyncio.sleep(self._latency / STEPS)
        return Generation(
            text=text, finish_reason="stop", prompt_tokens=900, cached_tokens=700, completion_tokens=20,
            probabilities=probabilities,
        )  # fmt: skip


class RandomRetriever:
    """Actor that returns random passages."""

    def __init__(self, passages: list[dict[str, Any]]):
        self._hits = [
            Hit(row["pmid"], 0.5, row["title"], row["abstract"], [h["ui"] for h in row["mesh"]]) for row in passages
        ]
        self._dice = np.random.default_rng(0)

    async def ready(self) -> str:
        """Return the machine's id, as the package's retriever does."""
        machine: str = ray.get_runtime_context().get_node_id()
        return machine

    async def search(self, queries: list[Query]) -> list[list[Hit]]:
        """Return passages for each query."""
        return [[self._hits[place] for place in self._dice.integers(0, len(self._hits), k)] for _, k, _ in queries]


def main() -> None:
    """Run all requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1_000, 10_000], help="abstracts")
    parser.add_argument("--replicas", type=int, nargs="*", default=[1, 4, 16], help="of the engine that takes its time")
    parser.add_argument("--latency", type=float, default=32.0, help="seconds an abstract takes, so many at once")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents")
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(ran(mesh=options.mesh, demo=options.demo, **options.one)))
        return
    sizes = [alone(options, rows=rows, replicas=1, latency=0.0) for rows in options.sizes]
    many = []
    for replicas in options.replicas:
        figures = alone(options, rows=ROUNDS * ROWS_AT_ONCE * replicas, replicas=replicas, latency=options.latency)
        ideal = ROWS_AT_ONCE * replicas / options.latency
        efficiency = round(figures["steady_abstracts_per_second"] / ideal, 3)
        many.append(figures | {"ideal": round(ideal, 1), "efficiency": efficiency})
    cpu = [
        round(1000 * (b["cpu_seconds"] - a["cpu_seconds"]) / (b["abstracts"] - a["abstracts"]), 2)
        for a, b in pairwise(sizes)
    ]
    result = {"benchmark": "overhead", "cpu_ms_per_abstract": cpu, "sizes": sizes, "replicas": many}
    print(json.dumps(result | {"cores": os.cpu_count(), "versions": versions()}))


def alone(options: argparse.Namespace, **one: float) -> dict[str, Any]:
    """Run one measurement, with a driver in a separate process."""
    command = [sys.executable, __file__, f"--demo={options.demo}", f"--mesh={options.mesh}", f"--one={json.dumps(one)}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(figures), file=sys.stderr)
    return figures


def ran(mesh: Path, demo: Path, rows: int, replicas: int, latency: float) -> dict[str, Any]:
    """Distil ``rows`` abstracts in a separate Ray session; return seconds, CPU seconds and memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = {ui: h["documents"] for ui, h in read_json(demo / "documents" / "descriptors.json").items()}
        hierarchy = MeshHierarchy.load(mesh).with_counts(counts)
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            paths = [f"documents={folder}/documents", "index=.", "mesh=.", f"out={folder}/run"]
            config = check(DistillConfig, compose("distill", [*paths, "retrieval=brief", "cluster=gpu"]))
        # Engines that only wait hold almost no CPU. So the session has few CPUs, and no more tasks than this machine
        # can bear run next to them.
        # The engine is no model's, so there is no cache to compute the rows from.
        cluster = replace(
            config.cluster, device="cpu", num_engines=replicas, cpus_per_engine=0.01, max_concurrent_rows=512
        )
        if latency:
            cluster = replace(cluster, block_rows=ROWS_PER_BLOCK, max_concurrent_rows=ROWS_AT_ONCE)
        config = replace(config, cluster=cluster)
        plan = make_plan(config, [Node(cpus=CPUS, memory_gib=1e6)])
        passages = documents(folder / "documents", demo / "documents", rows)
        repeated = replace(Documents.open(demo / "documents"), path=folder / "documents")
        with watched() as memory, ray_session(cluster, folder / "driver.log", CPUS) as terminal:
            retriever = ray.remote(num_cpus=0, max_concurrency=1_000)(RandomRetriever).remote(passages)
            ray.get(retriever.ready.remote())
            busy, work = cpu_seconds(), find_work(config, repeated)
            distill(config, plan, work, hierarchy, terminal, lambda _: FakeEngine(latency), [retriever])
            busy = cpu_seconds() - busy
        steady = steady_rate(folder / "run" / "records")
        check_complete(config, work)
        seconds = all_sessions(config.out)["seconds"]["distill"]
    return {
        "abstracts": rows,
        "engines": replicas,
        "seconds": round(seconds, 1),
        "abstracts_per_second": round(rows / seconds, 1),
        "steady_abstracts_per_second": round(steady, 1),
        "cpu_seconds": round(busy, 1),
        "driver_mb": [round(bytes / 1e6) for bytes in memory[:2]],
        "actor_mb": round(memory[2] / 1e6),
    }


def steady_rate(records: Path) -> float:
    """Return abstracts a second between the 30th and the 80th percent of them, while all engines are up and busy."""
    files = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in records.glob("*.parquet"))
    times, done = np.array([when for when, _ in files]), np.cumsum([number for _, number in files])
    first, last = np.searchsorted(done, [0.3 * done[-1], 0.8 * done[-1]])
    return float((done[last] - done[first]) / (times[last] - times[first]))


def documents(folder: Path, source: Path, rows: int) -> list[dict[str, Any]]:
    """Write ``rows`` documents: the real documents repeated, each with its own PMID. Return the first passages."""
    folder.mkdir(parents=True)
    table = ds.dataset(sorted(source.glob("part-*.parquet"))).to_table()
    for number, start in enumerate(range(0, rows, ROWS_PER_PART)):
        pmids = np.arange(start, min(start + ROWS_PER_PART, rows), dtype=np.int64)
        part = table.take(pa.array(pmids % table.num_rows)).set_column(
            table.schema.get_field_index("pmid"), "pmid", pa.array(pmids + 1)
        )
        pq.write_table(part, folder / f"part-{number:05}.parquet", row_group_size=2_000)
    return table.slice(0, 1_000).to_pylist()


def cpu_seconds() -> float:
    """Return the CPU time of the whole machine so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)  # Ray's workers run with a positive nice value


def private_bytes(worker: psutil.Process) -> int:
    """Return the private memory of an engine's actor; 0 for other processes and for processes that have ended."""
    try:
        return int(worker.memory_full_info().uss) if "ray::MapWorker" in worker.cmdline()[0] else 0
    except (psutil.Error, IndexError):
        return 0


@contextmanager
def watched() -> Iterator[list[int]]:
    """Watch private memory in bytes: of this process at the start, its maximum, and the maximum of an actor."""
    process, stop = psutil.Process(), threading.Event()
    memory = [process.memory_full_info().uss] * 2 + [0]

    def look() -> None:
        while not stop.wait(2.0):
            memory[1] = max(memory[1], process.memory_full_info().uss)
            memory[2] = max([memory[2], *(private_bytes(child) for child in process.children(recursive=True))])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
