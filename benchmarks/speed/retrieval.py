"""Measure retrieval at growing sizes: recall against exact search, speed against bare FAISS, bytes, memory, time.

    python benchmarks/speed/retrieval.py demo/index --sizes 10000 100000 1000000 > retrieval.json

The passages and vectors are those of an index from `index`. Larger sizes add synthetic vectors, which the JSON counts:
points between a real vector and one of its ten nearest neighbours, with a little noise. A synthetic question differs
from its passage's vector as a real title's vector differs from its abstract's.

The tasks of the `index` job build each structure in a Ray session on this machine and tune it to `--target`. Recall is
then measured independently, with other questions and FAISS's flat index. Questions a second are measured with known
vectors, so that the encoder hides nothing. Bare FAISS (the same structure and parameters, with FAISS's own refinement
by half-precision vectors) is called in a loop; the retriever's actor has two calls in flight. They take turns, and
medians are reported. Then both are measured with the real encoder at batches of 256.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from hydra import compose, initialize_config_dir

from kailin_ray.config import Encoder, IndexConfig, Retrieval, check, conf_dir
from kailin_ray.io.manifests import write_manifest
from kailin_ray.retrieval.encoder import QueryEncoder
from kailin_ray.retrieval.indexing import recall
from kailin_ray.retrieval.indexing.job import resolve_recorded_encoder
from kailin_ray.retrieval.indexing.structure import Shards, build_approximate, measure
from kailin_ray.retrieval.retriever import Query, Retriever
from kailin_ray.retrieval.search import ann
from kailin_ray.retrieval.search.folder import (
    FORMAT,
    Index,
    IndexInputs,
    IndexManifest,
    Recall,
    ShardFolder,
    Structure,
)
from kailin_ray.retrieval.search.index import PassageIndex, load_deleted
from kailin_ray.retrieval.search.store import SHARD_ROWS, Rows, Store, Vectors, write_shard
from kailin_ray.runtime.session import ray_session
from kailin_ray.versions import versions

Kind = Literal["exact", "ivf_pq", "hnsw"]
TUNE_AND_MEASURE, INDEPENDENT = 1_536, 1_000
BATCHES = (1, 32, 256)
NEIGHBOURS = 10
RETRIEVAL = Retrieval(
    top_k=4, exclude_source=True, dedup_threshold=0.8, lexical_weight=0.0, mesh_weight=0.0, max_context_words=None
)
NOISE = 0.5
"""Length of the noise that is added to a synthetic vector."""


class Source:
    """Real passages, and as many synthetic passages as needed."""

    def __init__(self, folder: Path, num_questions: int):
        index = Index.open(folder)
        self.encoder = resolve_recorded_encoder(index)
        store = Store(index.shards(), index.manifest.dimension)
        rng = np.random.default_rng(0)
        rows = rng.permutation(np.setdiff1d(np.arange(len(store)), load_deleted(folder)))
        self.vectors = store.vectors(rows).astype(np.float32)
        self.passages = store.passages(rows)
        titled = [row for row, (_, title, _, _) in enumerate(self.passages) if title]
        # The titles of passages that are part of every size.
        self.asked = np.array(titled[:num_questions])
        titles = [self.passages[row][1] for row in self.asked]
        self.questions = QueryEncoder(self.encoder, on_gpu=False).encode(titles)

    def sized(self, number: int) -> tuple[Vectors, Rows, Vectors]:
        """Return vectors of ``number`` passages, the row of each question's own passage, and the questions' vectors."""
        real = min(number, len(self.vectors))
        if number <= len(self.vectors):
            return self.vectors[:number], self.asked, self.questions
        rng = np.random.default_rng(number)
        _, near = faiss.knn(self.vectors, self.vectors, NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT)
        first = rng.integers(0, real, number - real)
        # The first synthetic passages are near passages with known titles; their questions are made from these titles.
        first[: len(self.asked)] = self.asked
        second = near[first, rng.integers(1, NEIGHBOURS + 1, len(first))]
        share = rng.random((len(first), 1), dtype=np.float32)
        synthetic = share * self.vectors[first] + (1 - share) * self.vectors[second]
        synthetic += rng.normal(scale=NOISE / np.sqrt(synthetic.shape[1]), size=synthetic.shape).astype(np.float32)
        faiss.normalize_L2(synthetic)
        half = len(self.asked) // 2
        rows = np.concatenate([self.asked[:half], real + np.arange(half, len(self.asked))])
        questions = self.questions.copy()
        questions[half:] += synthetic[half : len(self.asked)] - self.vectors[self.asked[half:]]
        faiss.normalize_L2(questions)
        mixed = rng.permutation(len(rows))  # otherwise tuning and measuring would use different kinds of questions
        return np.concatenate([self.vectors, synthetic]), rows[mixed], questions[mixed]

    def write(self, vectors: Vectors, folder: Path) -> Shards:
        """Write shards of these vectors; a synthetic passage has a real passage's text under its own PMID."""
        folders = []
        for number, start in enumerate(range(0, len(vectors), SHARD_ROWS)):
            rows = range(start, min(start + SHARD_ROWS, len(vectors)))
            texts = [self.passages[row % len(self.passages)] for row in rows]
            embedding = pa.array(vectors[rows.start : rows.stop].astype(np.float16).ravel())
            table = pa.table(
                {
                    "pmid": pa.array(rows, pa.int64()),
                    "title": [title for _, title, _, _ in texts],
                    # Otherwise all copies of a text would count as one context.
                    "text": [f"{row} {text}" for row, (_, _, text, _) in zip(rows, texts, strict=True)],
                    "mesh": pa.array([mesh for *_, mesh in texts], pa.list_(pa.string())),
                    "embedding": pa.FixedSizeListArray.from_arrays(embedding, vectors.shape[1]),
                }
            )
            path, shard = folder / f"{number}.parquet", folder / f"shards/{number:05}"
            pq.write_table(table, path)
            folders.append((str(shard), write_shard([path], shard).rows))
            path.unlink()
        return Shards(tuple(folders), vectors.shape[1], np.zeros(0, np.int64))


class LookedUp:
    """Replaces the encoder: a question is the number of its vector."""

    def __init__(self, vectors: Vectors):
        self._vectors = vectors

    def encode(self, questions: list[str]) -> Vectors:
        """Return (n, dimension) vectors for n numbers."""
        return self._vectors[[int(question) for question in questions]]


class LookingUp(Retriever):
    """The retriever, with ``LookedUp`` as its encoder."""

    def __init__(self, index: str, encoder: Encoder, vectors: Vectors):
        super().__init__(Index.open(Path(index)), encoder, False, RETRIEVAL)
        self._encoder: Any = LookedUp(vectors)


def main() -> None:
    """Measure and print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, help="made by `index`, of real documents")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", default=["exact", "ivf_pq", "hnsw"])
    parser.add_argument("--target", type=float, default=0.97)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=0, help="of FAISS and torch, bare and in the actor; 0: all cores"
    )
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    gc.freeze()  # as the retriever does
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = check(IndexConfig, compose("index", [f"documents={options.index}", "out=unused"]))
    source = Source(options.index, TUNE_AND_MEASURE + INDEPENDENT)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ray_session(config.cluster, folder / "ray.log") as terminal:
            for size in options.sizes:
                size_folder = folder / str(size)
                vectors, rows, questions = source.sized(size)
                shards = source.write(vectors, place_of(size_folder))
                del vectors
                for kind in options.kinds:
                    results.append(
                        measured(source, shards, kind, size_folder, rows, questions, options, threads, terminal)
                    )
                    print(json.dumps(results[-1]), file=terminal)
    settings = {
        "real_passages": len(source.vectors),
        "dimension": int(source.vectors.shape[1]),
        "target_recall_at_4": options.target,
        "threads": threads,
        "versions": {**versions(), "faiss": faiss.__version__},
    }
    print(json.dumps({**settings, "results": results}, indent=1))


def place_of(folder: Path) -> Path:
    """Create a folder and return it."""
    folder.mkdir(parents=True)
    return folder


def measured(
    source: Source, shards: Shards, kind: Kind, folder: Path, rows: Rows, questions: Vectors, asked: Any, threads: int,
    terminal: Any,
) -> dict[str, Any]:  # fmt: skip
    """Build one structure, measure it and return the figures."""
    num_passages = sum(number for _, number in shards.folders)
    scratch = place_of(folder / "scratch")
    np.savez(scratch / "queries.npz", vectors=questions[:TUNE_AND_MEASURE], rows=rows[:TUNE_AND_MEASURE])
    shards_ref = ray.put(shards)
    started = time.monotonic()
    if kind != "exact":
        build_approximate(shards_ref, kind, len(shards.folders), folder, terminal)
    built = time.monotonic() - started
    choice = Structure(kind=kind)
    if kind != "exact":
        choice = measure(shards_ref, choice, asked.target, len(shards.folders), folder, terminal)
    tuned = time.monotonic() - started - built
    for file in scratch.iterdir():
        file.unlink()
    scratch.rmdir()
    names = tuple(ShardFolder(name=str(Path(path).relative_to(folder)), rows=n) for path, n in shards.folders)
    np.save(folder / "deleted.npy", shards.deleted)
    write_manifest(folder, made_up_manifest(shards, names, choice, asked.target))
    automatic = ann.chosen_kind("auto", num_passages) == kind
    structure_bytes = 0 if kind == "exact" else (folder / "search.faiss").stat().st_size
    return {
        "passages": num_passages,
        "synthetic": max(0, num_passages - len(source.vectors)),
        "kind": kind,
        "automatic": automatic,
        "parameters": {
            name: value for name, value in vars(choice).items() if name not in ("kind", "recall") and value is not None
        },
        "seconds_to_build": round(built, 1),
        "seconds_to_tune_and_measure": round(tuned, 1),
        "bytes_per_passage": {
            "structure": round(structure_bytes / num_passages, 1),
            "vectors": 2 * shards.dimension,
            "text": round(
                sum(Path(path, "passages.arrow").stat().st_size for path, _ in shards.folders) / num_passages
            ),
        },
        "recall_in_manifest": asdict(choice.recall) if choice.recall else None,
        "recall_independent": asdict(independent(folder, rows[TUNE_AND_MEASURE:], questions[TUNE_AND_MEASURE:])),
        "memory_mib": memory(folder, questions),
        "questions_per_second": speeds(source, folder, choice, questions, asked.runs, threads, automatic),
    }


def made_up_manifest(shards: Shards, names: tuple[ShardFolder, ...], choice: Structure, target: float) -> IndexManifest:
    """Return a manifest for an index without documents."""
    return IndexManifest(
        id="benchmark",
        made_from=IndexInputs(documents="", encoder={}, format=FORMAT),
        documents_updates=1,
        limit=None,
        structure=choice.kind,
        target_recall=target,
        lexical=False,
        benchmarks={},
        updates=(),
        num_passages=shards.num_live(),
        dimension=shards.dimension,
        shards=names,
        search=choice,
        files={},
        config={},
    )


def independent(folder: Path, rows: Rows, questions: Vectors) -> Recall:
    """Return the recall of `PassageIndex` with other questions, against exact search over the stored vectors."""
    store = Store(Index.open(folder).shards(), questions.shape[1])
    flat = faiss.IndexFlatIP(store.dimension)
    for _, chunk in store.chunks():
        flat.add(chunk.astype(np.float32))
    exact = recall.without(flat.search(questions, 11)[1], rows)
    pmids = [int(pmid) for pmid in store.pmids(rows)]
    hits_by_question = PassageIndex(Index.open(folder)).search(questions, 10, pmids)
    numbers = np.array([[hit.pmid for hit in hits] for hits in hits_by_question])  # here, a PMID equals its row
    return recall.summary(numbers, exact)


def memory(folder: Path, questions: Vectors) -> dict[str, float]:
    """Return the resident memory of a process that opens the index and answers all questions, without its imports."""
    np.save(folder / "questions.npy", questions)
    code = """
import sys, pathlib, numpy as np, torch
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.search.index import PassageIndex
def held():
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")]
folder = pathlib.Path(sys.argv[1])
questions = np.load(folder / "questions.npy")
before = held()
index = PassageIndex(Index.open(folder))
for at in range(0, len(questions), 256):
    index.search(questions[at : at + 256], 4, [None] * len(questions[at : at + 256]), 0.8)
print(*[round(now - then, 1) for now, then in zip(held(), before)])
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    own, mapped = map(float, done.stdout.split())
    return {"own": own, "mapped": mapped}


def speeds(
    source: Source, folder: Path, choice: Structure, questions: Vectors, runs: int, threads: int, automatic: bool
) -> dict[str, Any]:
    """Return questions a second of bare FAISS and the actor for each batch size: medians of interleaved runs."""
    bare = bare_faiss(folder, choice)
    options = {"num_cpus": 0, "max_concurrency": 1_000, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}}}
    actor: Any = ray.remote(**options)(LookingUp).remote(str(folder), source.encoder, questions)
    ray.get(actor.ready.remote())
    rates_by_batch: dict[str, Any] = {}
    for size in BATCHES:
        rounds = some_seconds(partial(bare, questions[:size]))
        batches = [np.arange(index * size, (index + 1) * size) % len(questions) for index in range(rounds)]
        calls: list[list[Query]] = [[(str(number), 4, None) for number in batch.tolist()] for batch in batches]
        rates: dict[str, list[float]] = {"bare_faiss": [], "actor": []}
        for _ in range(runs):
            rates["bare_faiss"].append(rate(batches, lambda batch: bare(questions[batch])))
            rates["actor"].append(actor_rate(actor, calls))
        rates_by_batch[str(size)] = shown(rates)
    ray.kill(actor)
    if automatic:
        rates_by_batch["256, with the encoder"] = with_encoder(source, folder, bare, runs, options)
    return rates_by_batch


def bare_faiss(folder: Path, choice: Structure) -> Callable[[Vectors], Any]:
    """Return a search by FAISS alone on the same structure, for five passages: four and possibly the source."""
    index_folder = Index.open(folder)
    store = Store(index_folder.shards(), index_folder.manifest.dimension)
    if choice.kind == "exact":
        flat = faiss.IndexFlatIP(store.dimension)
        for _, chunk in store.chunks():
            flat.add(chunk.astype(np.float32))
        return lambda vectors: flat.search(vectors, 5)
    index = faiss.read_index(str(folder / "search.faiss"), faiss.IO_FLAG_MMAP_IFC)
    stored = faiss.IndexScalarQuantizer(index.d, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for _, chunk in store.chunks():
        stored.add(chunk.astype(np.float32))
    refined = faiss.IndexRefine(index, stored)
    if choice.kind == "hnsw":
        rough: Any = faiss.SearchParametersHNSW(efSearch=choice.ef_search)
    else:
        rough = faiss.SearchParametersIVF(nprobe=choice.nprobe)
    parameters = faiss.IndexRefineSearchParameters(k_factor=(choice.num_candidates or 0) / 5, base_index_params=rough)
    return lambda vectors: (refined.search(vectors, 5, params=parameters), stored)


def some_seconds(call: Callable[[], Any]) -> int:
    """Return how many such calls take about three seconds, at least two."""
    call()
    started = time.perf_counter()
    call()
    return max(2, min(200, int(3 / (time.perf_counter() - started))))


def rate(batches: list[Rows], search: Callable[[Rows], Any]) -> float:
    """Return questions a second of consecutive calls."""
    started = time.perf_counter()
    for batch in batches:
        search(batch)
    return sum(map(len, batches)) / (time.perf_counter() - started)


def actor_rate(actor: Any, calls: list[list[Query]]) -> float:
    """Return questions a second of an actor whose next call is always waiting."""
    started = time.perf_counter()
    flying: list[Any] = []
    for call in calls:
        flying.append(actor.search.remote(call))
        if len(flying) == 2:
            ray.get(flying.pop(0))
    ray.get(flying)
    return sum(map(len, calls)) / (time.perf_counter() - started)


def with_encoder(
    source: Source, folder: Path, bare: Callable[[Vectors], Any], runs: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Measure the same with the encoder before both, and titles as questions."""
    titles = [source.passages[row][1] for row in source.asked[:768]]
    encoder = QueryEncoder(source.encoder, on_gpu=False)
    actor: Any = ray.remote(**options)(Retriever).remote(str(folder), source.encoder, False, RETRIEVAL)
    ray.get(actor.ready.remote())
    batches = [np.arange(row, min(row + 256, len(titles))) for row in range(0, len(titles), 256)]
    calls: list[list[Query]] = [[(titles[row], 4, None) for row in batch] for batch in batches]
    rates: dict[str, list[float]] = {"bare_faiss": [], "actor": []}
    for _ in range(min(runs, 3)):
        rates["bare_faiss"].append(rate(batches, lambda batch: bare(encoder.encode([titles[row] for row in batch]))))
        rates["actor"].append(actor_rate(actor, calls))
    ray.kill(actor)
    return shown(rates)


def shown(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians, and the median of the ratios of neighbouring measurements."""
    ratios = [mine / bare for mine, bare in zip(rates["actor"], rates["bare_faiss"], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {**medians, "ratio": round(statistics.median(ratios), 3), "ratios": [round(ratio, 3) for ratio in ratios]}


if __name__ == "__main__":
    main()
