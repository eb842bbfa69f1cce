"""Distil documents into records: Ray Data reads, pools of engine actors work, files are written, runs resume.

A record file is written under a temporary name and renamed (``records.py``), and nothing else says what is done: the
resume state of a run is the PMIDs in its records. Where the plan cuts a run into parts, each part writes such files for
the next one.
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
from kailin_ray.dataset.records import compact, compacting, load_pmids, record_files
from kailin_ray.distill.accounting import Session
from kailin_ray.distill.actor import DistillActor, StartEngine, start_vllm
from kailin_ray.distill.monitor import Watch
from kailin_ray.distill.progress import Progress
from kailin_ray.distill.sink import RecordSink
from kailin_ray.distill.steps import begin_again
from kailin_ray.errors import STOPPED, StoppedError
from kailin_ray.io.files import remove_folder
from kailin_ray.io.pmids import PMIDS, among, files_with
from kailin_ray.io.storage import for_arrow, log_folder
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.plan import Part, Plan
from kailin_ray.planning.pools import Pool
from kailin_ray.retrieval.search.folder import Index
from kailin_ray.retrieval.service import retrieving
from kailin_ray.runtime.session import engine_environment
from kailin_ray.runtime.tasks import select_rows
from kailin_ray.schema import ASKING, CARRIED, RECORDS

Arguments = dict[str, Any]
"""Of a function or an actor, by name, as Ray takes them."""


@dataclass(frozen=True)
class Work:
    """What a run has to do, and what it did already."""

    files: list[Path]
    """The files that hold the documents, or the records to begin again from."""
    num_documents: int
    wanted: PMIDS | None
    """PMIDs to distil, sorted; None for all that the files hold."""
    done: PMIDS
    """PMIDs that have a record, sorted."""
    num_left: int


def find_work(config: DistillConfig, documents: Documents, chosen: PMIDS | None = None) -> Work:
    """Find the first ``limit`` documents, and those of them that have no record yet.

    With ``config.from_run`` the documents are that run's; ``chosen`` (sorted) are those among them.
    """
    if config.from_run:
        files = record_files(config.from_run.absolute() / "records")
        if chosen is not None:
            files = files_with(files, chosen)
        taken = load_pmids(config.from_run / "records") if chosen is None else chosen
        wanted: PMIDS | None = taken[: config.limit]
        total = len(taken[: config.limit])
    else:
        files, total, wanted = first_documents(documents, config.limit)
    compact(config.out / "records")
    done = load_pmids(config.out / "records")
    return Work(files, total, wanted, done, _num_left(total, wanted, done))


def _num_left(total: int, wanted: PMIDS | None, done: PMIDS) -> int:
    return total - _num_distinct(done) if wanted is None else int((~among(wanted, done)).sum())


def _num_distinct(ordered: PMIDS) -> int:
    return int(np.count_nonzero(ordered[1:] != ordered[:-1])) + min(1, len(ordered))


def check_complete(config: DistillConfig, work: Work) -> None:
    """Raise ``RuntimeError`` unless every document has exactly one record: such a run must not look complete.

    What is left of small record files is merged, and what parts left for one another is removed: the records have it.
    """
    compact(config.out / "records")
    pmids = load_pmids(config.out / "records")
    doubled = len(pmids) - _num_distinct(pmids)
    missing = _num_left(work.num_documents, work.wanted, pmids)
    if doubled or missing:
        raise RuntimeError(f"{config.out}: {missing} documents have no record, {doubled} records are doubles")
    remove_folder(config.out / "parts")


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
) -> None:
    """Distil what is not in the records yet, part after part.

    Contexts come from ``index``, or from ``retrievers`` (actors with ``ready`` and ``search``), which serve to measure
    the pipeline itself, as another engine than vLLM does. Needs a Ray session. Raises ``TooManyFailuresError``, and
    ``StoppedError`` once ``stop`` is set; what is done is kept.
    """
    out = config.out.absolute()
    stop = stop or threading.Event()
    # Here, as the machine of the driver is the one without which the run ends anyway.
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    session = Session(out, plan)
    shared = {"config": config, "mesh": ray.put(mesh), "start_engine": start_engine}
    shared["log"] = str(log_folder(out) / "engines.log")
    files, agents = work.files, ""
    for number, part in enumerate(plan.parts, start=1):
        agents = "+".join((*([agents] if agents else []), *(pool.stage.name for pool in part)))
        last = number == len(plan.parts)
        folder = out / "records" if last else out / "parts" / agents
        if not last:
            compact(folder)
        done = work.done if last else load_pmids(folder, out / "records")
        left = _num_left(work.num_documents, work.wanted, done)
        if left and stop.is_set():  # since the part before was done; no engine is to start for this one
            raise StoppedError(STOPPED)
        if left:
            progress: Any = ray.remote(num_cpus=0, scheduling_strategy=beside)(Progress).remote()
            rows = (work.num_documents, work.num_documents - left)
            named = number if len(plan.parts) > 1 else 0
            watch = Watch(progress, session, named, part, rows, config, stop, terminal)
            with retrieving(config, index, plan, number - 1, retrievers) as asked, watch, compacting(folder):
                actor = shared | {"progress": progress, "retrievers": asked}
                selected = {"wanted": ray.put(work.wanted), "done": ray.put(done)}
                del done  # 8 bytes a record, of which Ray has a copy now
                asking = number == 1 and ASKING in config.stages
                selected["again"] = config.stages[0] if number == 1 and not asking else None
                _run_part(part, config, _read_input(files, asking), selected, actor, folder)
            if stop.is_set() and _num_left(work.num_documents, work.wanted, load_pmids(folder, out / "records")):
                raise watch.stopped
        if not last:
            compact(folder)
            files = record_files(folder)


def _read_input(files: Sequence[Path], asking: bool) -> ray.data.Dataset:
    """Documents that questions are asked about, or records."""
    names, filesystem = for_arrow(list(files))
    return ray.data.read_parquet(names, filesystem=filesystem, columns=CARRIED.names if asking else RECORDS.names)


def _select(block: pa.Table, wanted: Any, done: Any, again: str | None) -> pa.Table:
    block = select_rows(block, wanted, done)
    return begin_again(block, again) if again else block


def _run_part(
    part: Part,
    config: DistillConfig,
    rows: ray.data.Dataset,
    selected: Arguments,
    actor: Arguments,
    folder: Path,
) -> None:
    rows = rows.map_batches(_select, batch_format="pyarrow", batch_size=None, fn_kwargs=selected).repartition(
        target_num_rows_per_block=config.cluster.rows_per_block
    )
    # So many share the cores of one machine.
    num_engines = max(Counter(machine for pool in part for machine in pool.machines).values())
    for pool in part:
        arguments = actor | {"stage": pool.stage}
        rows = through(rows, pool, config.cluster, DistillActor, arguments, num_engines)
    rows.write_datasink(RecordSink(folder))


def through(
    rows: ray.data.Dataset,
    pool: Pool,
    cluster: Cluster,
    actor: type[Any],
    arguments: Arguments,
    num_engines: int,
) -> ray.data.Dataset:
    """The rows of a dataset after one pool of engines, each of ``num_engines`` of its machine in an ``actor``."""
    blocks = math.ceil(cluster.rows_in_flight / cluster.rows_per_block)
    # Half as many again: where a block waits for its slowest row, the next one's rows take the places of its others.
    concurrent = blocks + math.ceil(blocks / 2)
    machines = itertools.cycle(pool.machines)

    def on_its_machine() -> Arguments:
        # Soft: where a machine is gone, its engine's replacement may start on another.
        machine = next(machines)
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(machine, soft=True)} if machine else {}

    return rows.map_batches(
        actor,
        batch_format="pyarrow",
        batch_size=cluster.rows_per_block,  # of actors with GPUs Ray Data wants to be told
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
