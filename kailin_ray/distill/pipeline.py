"""Distil documents into records: Ray Data reads the documents, pools of engine actors distil them, files are written.

A record file is written under a temporary name and then renamed (``records.py``). The PMIDs in the record files are the
only resume state of a run. If the plan divides a run into phases, each phase writes such files for the next phase.
"""

import itertools
import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kailin_ray.config import Cluster, DistillConfig
from kailin_ray.corpus.documents import Documents, first_documents
from kailin_ray.dataset.records import (
    compact,
    compacting,
    keep_one,
    load_pmids,
    record_files,
    set_aside_damaged,
)
from kailin_ray.distill.accounting import Session
from kailin_ray.distill.actor import DistillActor, StartEngine, start_vllm
from kailin_ray.distill.monitor import Watch
from kailin_ray.distill.progress import Progress
from kailin_ray.distill.sink import RecordSink
from kailin_ray.distill.steps import begin_again, phases_folder
from kailin_ray.errors import STOPPED, StoppedError
from kailin_ray.io.files import remove_folder
from kailin_ray.io.pmids import PMIDS, among, files_with
from kailin_ray.io.storage import for_arrow, log_folder
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.plan import Phase, Plan
from kailin_ray.planning.pools import Pool
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.service import retrieving
from kailin_ray.runtime.session import engine_environment
from kailin_ray.runtime.tasks import select_rows
from kailin_ray.schema import ASKING, CARRIED, RECORDS

Arguments = dict[str, Any]
"""Arguments of a function or an actor, by name, as they are passed to Ray."""


@dataclass(frozen=True)
class Work:
    """The documents of a run, and those that have a record already."""

    files: list[Path]
    """The files with the documents, or with the records of another run to start from."""
    num_documents: int
    wanted: PMIDS | None
    """Sorted PMIDs to distil; None for all PMIDs of the files."""
    done: PMIDS
    """Sorted PMIDs that have a record."""
    num_left: int


def find_work(config: DistillConfig, documents: Documents, chosen: PMIDS | None = None) -> Work:
    """Return the first ``limit`` documents, and which of them have a record already.

    With ``config.from_run`` the documents are those of that run, or the sorted PMIDs ``chosen`` among them.
    """
    if config.from_run:
        files = record_files(config.from_run.absolute() / "records")
        if chosen is not None:
            files = files_with(files, chosen)
        pmids = load_pmids(config.from_run / "records") if chosen is None else chosen
        wanted: PMIDS | None = pmids[: config.limit]
        total = len(pmids[: config.limit])
    else:
        files, total, wanted = first_documents(documents, config.limit)
    folder = config.out / "records"
    set_aside_damaged(folder)
    compact(folder)
    done = load_pmids(folder)
    if _num_distinct(done) < len(done):
        keep_one(folder)
        done = load_pmids(folder)
    return Work(files, total, wanted, done, _num_left(total, wanted, done))


def _num_left(total: int, wanted: PMIDS | None, done: PMIDS) -> int:
    return total - _num_distinct(done) if wanted is None else int((~among(wanted, done)).sum())


def _num_distinct(ordered: PMIDS) -> int:
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(1, len(ordered))


def check_complete(config: DistillConfig, work: Work) -> None:
    """Raise ``RuntimeError`` unless every document has exactly one record: a run with gaps must not look complete.

    Remaining small record files are merged, and the files that phases wrote for later phases are removed.
    """
    compact(config.out / "records")
    pmids = load_pmids(config.out / "records")
    num_duplicates = len(pmids) - _num_distinct(pmids)
    num_missing = _num_left(work.num_documents, work.wanted, pmids)
    if num_duplicates or num_missing:
        raise RuntimeError(
            f"{config.out}: {num_missing} documents have no record, {num_duplicates} records are duplicates"
        )
    remove_folder(phases_folder(config.out))


def distill(
    config: DistillConfig,
    plan: Plan,
    work: Work,
    mesh: MeshHierarchy,
    terminal: TextIO,
    start_engine: StartEngine = start_vllm,
    retrievers: Sequence[Any] | None = None,
    stop: threading.Event | None = None,
    index: Index | None = None,
    engine_actor: type[DistillActor] = DistillActor,
) -> None:
    """Distil the documents that have no record yet, phase by phase.

    Contexts come from ``index``, or from ``retrievers`` (actors with ``ready`` and ``search``). Other retrievers,
    another ``start_engine`` than vLLM's and another ``engine_actor`` serve to measure the pipeline itself. Needs a Ray
    session. Raises ``TooManyFailuresError``, and ``StoppedError`` once ``stop`` is set; finished records are kept.
    """
    out = config.out.absolute()
    stop = stop or threading.Event()
    # The progress actor runs on the driver's machine: without that machine the run ends anyway.
    on_driver = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    session = Session(out, plan)
    shared = {"config": config, "mesh": ray.put(mesh), "start_engine": start_engine}
    shared["log"] = str(log_folder(out) / "engines.log")
    files, agents = work.files, ""
    for number, phase in enumerate(plan.phases, start=1):
        agents = "+".join((*([agents] if agents else []), *(pool.stage.name for pool in phase)))
        is_last = number == len(plan.phases)
        folder = out / "records" if is_last else phases_folder(out) / agents
        if not is_last:
            compact(folder)
        done = work.done if is_last else load_pmids(folder, out / "records")
        num_left = _num_left(work.num_documents, work.wanted, done)
        if num_left and stop.is_set():  # stopped after the previous phase: start no engine for this phase
            raise StoppedError(STOPPED)
        if num_left:
            actor_class = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=on_driver)(Progress)
            progress: Any = actor_class.remote()
            rows = (work.num_documents, work.num_documents - num_left)
            shown_number = number if len(plan.phases) > 1 else 0
            watch = Watch(progress, session, shown_number, phase, rows, config, stop, terminal)
            with retrieving(config, index, plan, number - 1, retrievers) as retriever_actors, watch, compacting(folder):
                actor = shared | {"progress": progress, "retrievers": retriever_actors}
                selection = {"wanted": ray.put(work.wanted), "done": ray.put(done)}
                del done  # 8 bytes per record, and Ray has a copy now
                reads_documents = number == 1 and ASKING in config.stages
                selection["again"] = config.stages[0] if number == 1 and not reads_documents else None
                rows_in = _read_input(files, reads_documents)
                _run_phase(phase, config, rows_in, selection, engine_actor, actor, folder)
            if stop.is_set() and _num_left(work.num_documents, work.wanted, load_pmids(folder, out / "records")):
                raise watch.stopped
        if not is_last:
            compact(folder)
            files = record_files(folder)


def _read_input(files: Sequence[Path], reads_documents: bool) -> ray.data.Dataset:
    """Read documents, or records."""
    names, filesystem = for_arrow(list(files))
    return ray.data.read_parquet(
        names, filesystem=filesystem, columns=CARRIED.names if reads_documents else RECORDS.names
    )


def _select(block: pa.Table, wanted: Any, done: Any, again: str | None) -> pa.Table:
    block = select_rows(block, wanted, done)
    return begin_again(block, again) if again else block


def _run_phase(
    phase: Phase,
    config: DistillConfig,
    rows: ray.data.Dataset,
    selection: Arguments,
    engine_actor: type[DistillActor],
    actor: Arguments,
    folder: Path,
) -> None:
    rows = rows.map_batches(_select, batch_format="pyarrow", batch_size=None, fn_kwargs=selection).repartition(
        target_num_rows_per_block=config.cluster.block_rows
    )
    # The number of engines that share the cores of one machine.
    num_engines = max(Counter(machine for pool in phase for machine in pool.machines).values())
    for pool in phase:
        arguments = actor | {"stage": pool.stage, "max_concurrent_rows": pool.concurrency.max_concurrent_rows}
        rows = through(rows, pool, config.cluster, engine_actor, arguments, num_engines)
    rows.write_datasink(RecordSink(folder))


def through(
    rows: ray.data.Dataset,
    pool: Pool,
    cluster: Cluster,
    actor: type[Any],
    arguments: Arguments,
    num_engines: int,
) -> ray.data.Dataset:
    """Pass the rows of a dataset through one pool of engines, each in an ``actor``; return the resulting dataset.

    ``num_engines``: the number of engines that share a machine's cores.
    """
    blocks = math.ceil(pool.concurrency.max_concurrent_rows / cluster.block_rows)
    # Half as many blocks again: while a block waits for its slowest row, rows of the next block use the free places.
    concurrent = blocks + math.ceil(blocks / 2)
    machines = itertools.cycle(pool.machines)

    def on_its_machine() -> Arguments:
        # The affinity is soft: if a machine is lost, the replacement of its engine may start on another machine.
        machine = next(machines)
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(machine, soft=True)} if machine else {}

    return rows.map_batches(
        actor,
        batch_format="pyarrow",
        batch_size=cluster.block_rows,  # Ray Data requires it for actors with GPUs
        fn_constructor_kwargs=arguments,
        compute=ray.data.ActorPoolStrategy(
            size=pool.replicas,
            max_tasks_in_flight_per_actor=concurrent + 2,
            max_concurrent_calls_per_actor=concurrent,
        ),
        num_cpus=pool.demand.cpus,
        num_gpus=pool.demand.gpus,
        ray_remote_args_fn=on_its_machine,
        runtime_env={"env_vars": engine_environment(cluster, num_engines)},
    )
