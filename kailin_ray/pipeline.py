"""Distil documents into records: Ray Data reads, one stage of engine actors works, files are written, runs resume.

A record file is written under a temporary name and renamed, and nothing else says what is done: the resume state of a
run is the PMIDs in its records.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
import ray.data
from pydantic import TypeAdapter

from kailin_ray.config import ConfigError, DistillConfig, Encoder
from kailin_ray.distill import DistillActor, Progress
from kailin_ray.files import atomic_file, read_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.plan import engine_environment
from kailin_ray.retrieval.retriever import Retriever
from kailin_ray.schema import DOCUMENTS, RECORDS
from kailin_ray.watch import Watch

PMIDS = npt.NDArray[np.int64]


class RecordSink(ray.data.Datasink[None]):
    """Writes each block of records as one Parquet file, atomically.

    The name comes from the PMIDs, so a task that Ray repeats writes the same file again instead of a second one.
    """

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        """Write the blocks of one task as one file."""
        table = pa.concat_tables([pa.table(block) for block in blocks if block.num_rows]).cast(RECORDS)
        pmids = table["pmid"].to_numpy()
        digest = hashlib.sha256(np.sort(pmids).tobytes()).hexdigest()[:16]
        with atomic_file(self._folder / f"{pmids.min():09}-{digest}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")


def record_pmids(run: Path) -> PMIDS:
    """The PMIDs in a run's records, sorted: 8 bytes a row, whatever the records hold."""
    parts = [batch["pmid"].to_numpy() for batch in records(run).to_batches(columns=["pmid"])]
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)


def records(run: Path) -> ds.Dataset:
    """A run's records as an Arrow dataset. Files under a temporary name start with a dot and are left out."""
    return ds.dataset(sorted(str(path) for path in (run / "records").glob("*.parquet")), schema=RECORDS)


@dataclass(frozen=True)
class Work:
    """What a run has to do, and what it did already."""

    files: list[str]
    """The files that hold the documents."""
    num_documents: int
    wanted: PMIDS | None
    """PMIDs to distil, sorted; None for all that the files hold."""
    done: PMIDS
    """PMIDs that have a record, sorted."""
    num_left: int


def find_work(config: DistillConfig) -> Work:
    """Find the first ``limit`` documents, and those of them that have no record yet."""
    files = sorted(config.documents.absolute().glob("part-*.parquet"))
    done = record_pmids(config.out)
    if config.limit is None:
        total = sum(pq.read_metadata(file).num_rows for file in files)
        return Work([str(file) for file in files], total, None, done, total - len(done))
    chosen: list[str] = []
    pmids: list[PMIDS] = []
    for file in files:
        left = config.limit - sum(map(len, pmids))
        if left <= 0:
            break
        chosen.append(str(file))
        pmids.append(pq.read_table(file, columns=["pmid"])["pmid"].to_numpy()[:left])
    wanted = np.sort(np.concatenate(pmids))
    return Work(chosen, len(wanted), wanted, done, int((~_among(wanted, done)).sum()))


def check_complete(config: DistillConfig, work: Work) -> None:
    """Assert that every document has exactly one record; a run that lost or doubled one must not look complete."""
    pmids = record_pmids(config.out)
    assert len(np.unique(pmids)) == len(pmids), f"{config.out}: some PMIDs have two records"
    missing = work.num_documents - len(pmids) if work.wanted is None else int((~_among(work.wanted, pmids)).sum())
    assert missing == 0, f"{config.out}: {missing} documents have no record"


def select_rows(block: pa.Table, wanted: Any, done: Any) -> pa.Table:
    """Those rows of a block that are wanted (all, if ``wanted`` holds None) and not done."""
    pmids = block["pmid"].to_numpy()
    chosen, finished = ray.get([wanted, done])
    keep = ~_among(pmids, finished)
    if chosen is not None:
        keep &= _among(pmids, chosen)
    return block.filter(pa.array(keep))


def _among(values: PMIDS, ordered: PMIDS) -> npt.NDArray[np.bool_]:
    if len(ordered) == 0:
        return np.zeros(len(values), dtype=bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values


def distill(config: DistillConfig, work: Work, mesh: MeshHierarchy, terminal: TextIO) -> dict[str, float]:
    """Distil what is not in the records yet; return the seconds it took: total, engine_start, distill.

    Needs a Ray session. Raises ``TooManyFailuresError``; what is done is kept.
    """
    started = time.monotonic()
    out, cluster = config.out.absolute(), config.cluster
    progress: Any = ray.remote(num_cpus=0)(Progress).remote()
    actor = {
        "config": config,
        "mesh": ray.put(mesh),
        "retriever": start_retriever(config),
        "progress": progress,
        "log": str(out / "logs" / "engines.log"),
    }
    with Watch(
        progress, work.num_documents, work.num_documents - work.num_left, config.max_failed_fraction, terminal
    ) as watch:
        (
            ray.data.read_parquet(work.files, columns=DOCUMENTS.names)
            .map_batches(
                select_rows,
                batch_format="pyarrow",
                batch_size=None,
                fn_kwargs={"wanted": ray.put(work.wanted), "done": ray.put(work.done)},
            )
            .repartition(target_num_rows_per_block=cluster.rows_per_block)
            .map_batches(
                DistillActor,
                batch_format="pyarrow",
                batch_size=None,
                fn_constructor_kwargs=actor,
                compute=ray.data.ActorPoolStrategy(
                    size=cluster.num_engines,
                    max_tasks_in_flight_per_actor=2 * cluster.blocks_in_flight,
                    max_concurrent_calls_per_actor=cluster.blocks_in_flight,
                ),
                num_cpus=1,
                num_gpus=cluster.gpus_per_engine,
                runtime_env={"env_vars": engine_environment(cluster)},
            )
            .write_datasink(RecordSink(out / "records"))
        )
    engines = watch.last["engines"]
    ready = min((engine["ready"] for engine in engines), default=time.time())
    return {
        "total": round(time.monotonic() - started, 1),
        "engine_start": round(max((engine["seconds"] for engine in engines), default=0.0), 1),
        "distill": round(max(time.time() - ready, 0.0), 1),
    }


def load_mesh(config: DistillConfig) -> MeshHierarchy:
    """The hierarchy with the information content of the corpus that the documents are.

    Raises ``ConfigError`` if the file holds no hierarchy.
    """
    try:
        hierarchy = MeshHierarchy.load(config.mesh)
    except ValueError as error:
        raise ConfigError(f"mesh: {config.mesh}: {error}") from error
    return hierarchy.with_counts(read_json(config.documents / "descriptors.json"))


def start_retriever(config: DistillConfig) -> Any:
    """A retriever actor on the index, with the encoder that the index was made with."""
    encoder = TypeAdapter(Encoder).validate_python(read_json(config.index / "manifest.json")["config"]["encoder"])
    gpus = config.cluster.gpus_per_encoder
    options = {"num_cpus": 0, "num_gpus": gpus, "max_concurrency": 1_000, "max_restarts": -1, "max_task_retries": -1}
    # Not waited for here: it starts while the engines do, and they wait for it (DistillActor).
    return ray.remote(**options)(Retriever).remote(str(config.index.absolute()), encoder, gpus > 0)
