"""The tasks that build an index's structure from its shards and measure its recall.

A task reads its input from the folders and writes its output there; only numbers and names come to the driver. One task
trains a large structure on a sample, many tasks fill it shard by shard, and one task merges it.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TextIO, TypedDict

import faiss
import numpy as np
import ray

from kailin_ray.config import Encoder
from kailin_ray.io.terminal import progress_bar
from kailin_ray.retrieval.encoder import QueryEncoder
from kailin_ray.retrieval.indexing import recall
from kailin_ray.retrieval.search import ann
from kailin_ray.retrieval.search.exact import best_of, nearest
from kailin_ray.retrieval.search.folder import Structure
from kailin_ray.retrieval.search.store import Rows, Store, Vectors
from kailin_ray.runtime.tasks import each

NUM_QUERIES = 1_536
"""Titles that are used as queries: a third for tuning, the others for measuring."""
TITLE_WORDS = 15
"""Words that replace a missing title, from the start of the text."""
SEED = 0
OUTGROWN = 4
"""A structure is rebuilt when there are more than this many times the passages that it was built for."""


@dataclass(frozen=True)
class Shards:
    """The input of a structure."""

    folders: tuple[tuple[str, int], ...]
    """Each shard's folder and number of rows, in order."""
    dimension: int
    deleted: Rows

    def store(self) -> Store:
        """Open the shards."""
        return Store([(Path(folder), rows) for folder, rows in self.folders], self.dimension)

    def num_live(self) -> int:
        """Return the number of passages that are not deleted."""
        return sum(rows for _, rows in self.folders) - len(self.deleted)


class Nothing(TypedDict):
    """The empty report of a task that only writes."""


def make_search(
    shards: Shards,
    kind: Literal["exact", "ivf_pq", "hnsw"],
    target: float,
    encoder: Encoder,
    folder: Path,
    before: tuple[Path, Structure] | None,
    terminal: TextIO,
) -> Structure:
    """Write ``folder/search.faiss`` (none for exact) and return its description for the manifest.

    ``before`` is the file of an earlier structure of the first of these shards, with its description; it is extended if
    it still suits. ``encoder`` encodes the titles for measuring.
    """
    if kind == "exact":
        return Structure(kind=kind)
    shards_ref = ray.put(shards)
    scratch = folder / "scratch"
    scratch.mkdir()
    made_for = total = shards.num_live()
    if before and before[1].kind == kind and total <= OUTGROWN * (before[1].made_for or 0):
        made_for = before[1].made_for or 0
        ray.get(_extend_index.remote(shards_ref, str(before[0]), str(folder)))
    else:
        build_approximate(shards_ref, kind, len(shards.folders), folder, terminal)
    ray.get(_queries.remote(shards_ref, encoder, str(scratch)))
    structure = measure(
        shards_ref, Structure(kind=kind, made_for=made_for), target, len(shards.folders), folder, terminal
    )
    shutil.rmtree(scratch)
    return structure


def build_approximate(given: Any, kind: str, num_shards: int, folder: Path, terminal: TextIO) -> None:
    """Write ``folder/search.faiss`` from the shards that ``given`` refers to. Temporary files: ``folder/scratch``."""
    if kind == "hnsw":
        ray.get(_grown.remote(given, str(folder)))
        return
    scratch = str(folder / "scratch")
    ray.get(_train_quantizer.remote(given, scratch))
    _show_progress(fill_part, num_shards, {"shards": given, "scratch": scratch}, "structured", terminal)
    ray.get(_merge_shards.remote(num_shards, str(folder), scratch))


def measure(given: Any, choice: Structure, target: float, num_shards: int, folder: Path, terminal: TextIO) -> Structure:
    """Return ``choice`` with parameters that reach the target and their recall on ``folder/scratch/queries.npz``."""
    scratch = str(folder / "scratch")
    _show_progress(exact_part, num_shards, {"shards": given, "scratch": scratch}, "measured", terminal)
    structure: Structure = ray.get(_tune_structure.remote(given, choice, target, str(folder), scratch))
    return structure


def _show_progress(task: Any, num_shards: int, keys: Mapping[str, Any], done: str, terminal: TextIO) -> None:
    with progress_bar(terminal, f"index: {done}", num_shards, unit=" shards") as bar:
        for _ in each(task, range(num_shards), keys):
            bar.update()


def use_all_cores() -> None:
    """Let this task's libraries use all cores: Ray allows one thread to a task of one CPU."""
    import torch

    faiss.omp_set_num_threads(os.cpu_count() or 1)
    torch.set_num_threads(os.cpu_count() or 1)


def _write(index: Any, folder: str, name: str = "search.faiss") -> None:
    faiss.write_index(index, str(Path(folder, name)))


@ray.remote
def _train_quantizer(shards: Shards, scratch: str) -> None:
    use_all_cores()
    _write(ann.train("ivf_pq", _sample(shards), shards.num_live()), scratch, "trained.faiss")


def _sample(shards: Shards) -> Vectors:
    store = shards.store()
    rows = np.random.default_rng(SEED).choice(len(store), ann.sample_size(len(store)), replace=False)
    return store.vectors(np.sort(rows)).astype(np.float32)


def fill_part(number: int, shards: Any, scratch: str) -> Nothing:
    """Write the structure of one shard."""
    index = faiss.read_index(str(Path(scratch, "trained.faiss")))
    ann.add(index, ray.get(shards).store().chunks([number]))
    _write(index, scratch, f"{number:05}.faiss")
    return {}


@ray.remote
def _merge_shards(number: int, folder: str, scratch: str) -> None:
    _write(ann.merge([Path(scratch, f"{shard:05}.faiss") for shard in range(number)]), folder)


@ray.remote
def _grown(shards: Shards, folder: str) -> None:
    use_all_cores()
    index = ann.train("hnsw", _sample(shards), shards.num_live())
    ann.add(index, shards.store().chunks())
    _write(index, folder)


@ray.remote
def _extend_index(shards: Shards, previous_file: str, folder: str) -> None:
    use_all_cores()
    index = faiss.read_index(previous_file)
    store = shards.store()
    new = [number for number in range(len(store.shards)) if store.offsets[number] >= index.ntotal]
    ann.add(index, store.chunks(new))
    _write(index, folder)


@ray.remote
def _queries(shards: Shards, encoder: Encoder, scratch: str) -> None:
    """Encode some passages' titles, or their first words, as questions; a passage is no answer to its own title."""
    use_all_cores()
    store = shards.store()
    order = np.random.default_rng(SEED + 1).permutation(len(store))[: 4 * NUM_QUERIES]
    rows = np.setdiff1d(order, shards.deleted)
    titles = [title or " ".join(text.split()[:TITLE_WORDS]) for _, title, text, _ in store.passages(rows)]
    chosen = np.random.default_rng(SEED + 2).permutation(len(rows))[:NUM_QUERIES]
    vectors = QueryEncoder(encoder, on_gpu=False).encode([titles[at] for at in chosen])
    np.savez(Path(scratch, "queries.npz"), vectors=vectors, rows=rows[chosen])


def exact_part(number: int, shards: Any, scratch: str) -> Nothing:
    """Write the nearest neighbours of all queries within one shard."""
    all_shards: Shards = ray.get(shards)
    with np.load(Path(scratch, "queries.npz"), allow_pickle=False) as queries:
        scores, rows = nearest(
            all_shards.store().chunks([number]), queries["vectors"], all_shards.deleted, max(recall.DEPTHS) + 1
        )
    np.savez(Path(scratch, f"exact-{number:05}.npz"), scores=scores, rows=rows)
    return {}


@ray.remote
def _tune_structure(shards: Shards, choice: Structure, target: float, folder: str, scratch: str) -> Structure:
    use_all_cores()
    with np.load(Path(scratch, "queries.npz"), allow_pickle=False) as queries:
        vectors, sources = queries["vectors"], queries["rows"]
    results = [np.load(file, allow_pickle=False) for file in sorted(Path(scratch).glob("exact-*.npz"))]
    depth = max(recall.DEPTHS) + 1
    _, rows = best_of([result["scores"] for result in results], [result["rows"] for result in results], depth)
    return choose_parameters(shards, choice, target, Path(folder, "search.faiss"), vectors, sources, rows)


def choose_parameters(
    shards: Shards, choice: Structure, target: float, file: Path, vectors: Vectors, sources: Rows, exact: Rows
) -> Structure:
    """Return ``choice`` with the cheapest parameters that reach the target, and their recall.

    ``vectors`` (q, dimension) are queries, ``sources`` (q,) the row that is no answer to each query (-1 for none), and
    ``exact`` (q, k) the rows from exact search.
    """
    store = shards.store()
    index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    lists = index.nlist if choice.kind == "ivf_pq" else 0
    exact = recall.without(exact, sources)
    third = len(vectors) // 3
    tune, measure = slice(0, third), slice(third, None)

    def find(which: slice, parameters: dict[str, int]) -> Rows:
        search = ann.open_search(file, with_parameters(choice, parameters), store, shards.deleted, "cpu")
        _, rows = search.search(vectors[which], max(recall.DEPTHS) + 1)
        return recall.without(rows, sources[which])

    best = recall.tune(partial(find, tune), exact[tune], choice.kind, lists, target)
    measured_recall = recall.summary(find(measure, best), exact[measure])
    return replace(with_parameters(choice, best), target_recall_at_4=target, recall=measured_recall)


def with_parameters(choice: Structure, parameters: Mapping[str, int]) -> Structure:
    """Return ``choice`` with parameters in the form that ``recall.tune`` uses."""
    return replace(
        choice,
        nprobe=parameters.get("nprobe"),
        ef_search=parameters.get("ef_search"),
        num_candidates=parameters["num_candidates"],
    )
