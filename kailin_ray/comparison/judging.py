"""Judge the old and the new question of each abstract, on separate engines. The only module here that needs Ray.

The records of both runs are split into partitions by PMID. One task pairs the questions of a partition, and a pool of
engines judges the pairs as they arrive. Verdicts are written block by block next to ``out``, so that the same command
resumes after a stop::

    .comparison.judging/
      asked.json            the judge and the runs; if either differs, judging starts again
      old/part=7/*.parquet  title, abstract and candidates
      new/part=7/*.parquet
      verdicts/*.parquet    by verdicts.VERDICTS
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
import ray.data

from kailin_ray.comparison.job import judging_folder
from kailin_ray.comparison.manifest import JudgeIdentity
from kailin_ray.comparison.pairs import chosen_batches
from kailin_ray.comparison.verdicts import KEYS_PER_PMID, VERDICTS, Keys, agents_of, read_verdicts
from kailin_ray.config import CompareConfig
from kailin_ray.distill.actor import StartEngine, start_vllm
from kailin_ray.distill.distiller import Distiller, RejectedRowError
from kailin_ray.distill.pipeline import through
from kailin_ray.engines.interface import EngineDeadError
from kailin_ray.io.files import atomic_file, read_json, remove_folder, write_json
from kailin_ray.io.pmids import PMIDS
from kailin_ray.io.terminal import progress_bar, send_output_to
from kailin_ray.planning.plan import lay_out
from kailin_ray.planning.pools import Pool
from kailin_ray.planning.stages import Stage, judge_stage
from kailin_ray.runtime.nodes import cluster_nodes
from kailin_ray.runtime.session import ray_session
from kailin_ray.schema import Row

ABSTRACTS_PER_PART = 500
"""Abstracts in a partition. A task holds their texts of both runs: about 20 MB."""
_CANDIDATE = pa.struct(
    [
        ("agent", pa.string()),
        ("question", pa.string()),
        ("contexts", pa.list_(pa.struct([("text", pa.string())]))),
    ]
)
TEXTS = pa.schema(
    [
        ("pmid", pa.int64()),
        ("title", pa.string()),
        ("abstract", pa.string()),
        ("candidates", pa.list_(_CANDIDATE)),
    ]
)
PAIRS = pa.schema([("key", pa.int64()), *list(TEXTS)[1:]])
"""``candidates``: the old question, then the new one."""
_READ = [
    "pmid", "title", "abstract", "candidates.list.element.agent", "candidates.list.element.question",
    "candidates.list.element.contexts.list.element.text",
]  # fmt: skip


def judge_pairs(
    config: CompareConfig, judge: JudgeIdentity, keys: Keys, log: Path, start_engine: StartEngine = start_vllm
) -> pa.Table:
    """Return ``VERDICTS`` of the pairs ``keys`` (sorted), sorted by key; ``judge`` is all that they depend on.

    Raises ``ConfigError`` if the judge cannot run here; then nothing is written. Raises ``RayError`` if an engine died.
    """
    folder, identity = judging_folder(config.out), asdict(judge)
    note = folder / "asked.json"
    if not note.exists() or read_json(note) != identity:
        remove_folder(folder)
    unjudged = keys[~np.isin(keys, read_verdicts(folder / "verdicts")["key"].to_numpy())]
    if len(unjudged):
        with ray_session(config.cluster, log) as terminal:
            plan = lay_out(config, [judge_stage(config.model)], cluster_nodes(config.cluster))
            write_json(note, identity)
            (folder / "verdicts").mkdir(exist_ok=True)
            pmids = np.unique(unjudged // KEYS_PER_PMID)
            for side, run in (("old", config.old), ("new", config.new)):
                _deal(run, pmids, folder / side)
            ((pool,),) = plan.phases
            with progress_bar(terminal, "compare: judged", len(unjudged), unit=" pairs of questions") as bar:
                for number in _judge(config, pool, folder, unjudged, log.absolute(), start_engine):
                    bar.update(number)
    return read_verdicts(folder / "verdicts")


def _deal(run: Path, pmids: PMIDS, folder: Path) -> None:
    """Write the texts that the judge needs from a run's records, in partitions of the sorted ``pmids``."""

    def deal_batches() -> Iterator[pa.RecordBatch]:
        for batch in chosen_batches(run, pmids, _READ, size=500):
            partition = np.searchsorted(pmids, batch["pmid"].to_numpy()) // ABSTRACTS_PER_PART
            table = batch.select(TEXTS.names).cast(TEXTS)
            yield table.append_column("part", pa.array(partition.astype(np.int32)))

    remove_folder(folder)
    schema = TEXTS.append(pa.field("part", pa.int32()))
    partitioning = ds.partitioning(pa.schema([schema.field("part")]), flavor="hive")
    rows = ds.Scanner.from_batches(deal_batches(), schema=schema)
    num_partitions = -(-len(pmids) // ABSTRACTS_PER_PART)
    ds.write_dataset(rows, folder, format="parquet", partitioning=partitioning, max_partitions=num_partitions)


def _judge(
    config: CompareConfig, pool: Pool, folder: Path, keys: Keys, log: Path, start_engine: StartEngine
) -> Iterator[int]:
    """Judge and write the pairs; return an iterator over the number of verdicts of each block."""
    num_partitions = sum(1 for _ in (folder / "new").iterdir())
    rows = ray.data.range(num_partitions, override_num_blocks=num_partitions).map_batches(
        _pairs, batch_format="pyarrow", batch_size=1, fn_kwargs={"folder": folder, "keys": ray.put(keys)}
    )
    rows = rows.repartition(target_num_rows_per_block=config.cluster.block_rows)
    num_engines = max(Counter(pool.machines).values())  # the most engines that share the cores of one machine
    arguments = {
        "config": config,
        "stage": pool.stage,
        "max_concurrent_rows": pool.concurrency.max_concurrent_rows,
        "folder": folder / "verdicts",
        "log": log,
        "start_engine": start_engine,
    }
    blocks = through(rows, pool, config.cluster, PairJudge, arguments, num_engines)
    return (row["judged"] for row in blocks.iter_rows())


def _pairs(batch: pa.Table, folder: Path, keys: Any) -> Iterator[pa.Table]:
    """Yield the pairs of one partition, by ``PAIRS``."""
    (partition,) = batch["id"].to_pylist()
    sides = []
    for side in ("old", "new"):
        rows = pq.read_table(folder / side / f"part={partition}", schema=TEXTS).to_pylist()
        sides.append({row["pmid"]: row for row in rows})
    pmids = np.sort(np.fromiter(sides[0], np.int64))
    all_keys = ray.get(keys)
    first, last = np.searchsorted(all_keys, [pmids[0] * KEYS_PER_PMID, (pmids[-1] + 1) * KEYS_PER_PMID])
    pairs = []
    for key in all_keys[first:last].tolist():
        pmid, *agents = agents_of(key)
        candidates = [_of(side[pmid], agent) for side, agent in zip(sides, agents, strict=True)]
        pairs.append({**sides[1][pmid], "key": key, "candidates": candidates})
    yield pa.Table.from_pylist(pairs, PAIRS)


def _of(row: Row, agent: str) -> Any:
    return next(candidate for candidate in row["candidates"] if candidate["agent"] == agent)


class PairJudge:
    """Ray Data actor with the judge's engine. Takes ``PAIRS``, writes verdicts, returns how many it judged.

    A dead engine ends the command. The same command resumes from the verdicts that are written.
    """

    def __init__(
        self,
        config: CompareConfig,
        stage: Stage,
        max_concurrent_rows: int,
        folder: Path,
        log: Path,
        start_engine: StartEngine,
    ):
        """Start the engine; verdicts go to ``folder``."""
        send_output_to(log)
        self._folder = folder
        self._engine = start_engine(stage.engine)
        unused: Any = None  # search and MeSH hierarchy: the judge needs neither
        self._distiller = Distiller(config, stage.steps, self._engine, unused, unused)
        self._room = asyncio.Semaphore(max_concurrent_rows)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Judge the pairs of a block at the same time."""
        verdicts = await asyncio.gather(*(self._verdict(row) for row in batch.to_pylist()))
        if verdicts:
            name = hashlib.sha256(batch["key"].to_numpy().tobytes()).hexdigest()[:16]
            with atomic_file(self._folder / f"{name}.parquet") as partial:
                pq.write_table(pa.Table.from_pylist(verdicts, VERDICTS), partial)
        yield pa.table({"judged": [len(verdicts)]})

    async def _verdict(self, pair: Row) -> Row:
        async with self._room:
            try:
                (old, new), orders = await self._distiller.verdicts({**pair, "usage": []})
            except EngineDeadError:
                raise
            except RejectedRowError as end:
                return {"key": pair["key"], "fault": end.reason}
            except Exception as error:  # one pair's fault must not end the comparison; it is counted
                return {"key": pair["key"], "fault": f"agent_error: {type(error).__name__}"}
        return {"key": pair["key"], "old": old, "new": new, "orders": orders}

    def __del__(self) -> None:
        """Shut the engine's processes down cleanly."""
        if engine := getattr(self, "_engine", None):
            engine.shutdown()
