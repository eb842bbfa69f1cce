"""The judge between an old and a new question of the same abstract, on engines of its own."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import ray
import ray.data

from kailin_ray.actor import start_vllm
from kailin_ray.comparison.pairs import KINDS, PREFERRED
from kailin_ray.config import CompareConfig
from kailin_ray.distill import Distiller, RejectedRowError
from kailin_ray.generation import EngineDeadError
from kailin_ray.plan import make_plan
from kailin_ray.records import records
from kailin_ray.session import cluster_nodes, engine_environment, ray_session
from kailin_ray.stages import Stage, make_stages

ABSTRACTS_AT_ONCE = 20_000
"""Of which both runs' candidates are in the driver's memory together: about 300 MB."""
_CANDIDATE = pa.struct([("question", pa.string()), ("contexts", pa.list_(pa.struct([("text", pa.string())])))])
DUELS = pa.schema(
    [
        ("pmid", pa.int64()),
        ("kind", pa.string()),
        ("title", pa.string()),
        ("abstract", pa.string()),
        ("candidates", pa.list_(_CANDIDATE)),
    ]
)
"""``candidates``: the old question, then the new one."""
VERDICTS = pa.schema(
    [("pmid", pa.int64()), ("kind", pa.string()), ("probability", pa.float64()), ("orders", pa.list_(pa.float64()))]
)
"""``probability`` of the new question, over both orders; null where the judge could not be asked. ``orders``: of a
pairwise judge, that of the old one where it was shown first, and where second."""


def judge_stage(config: CompareConfig) -> Stage:
    """The judge alone on its engine. Raises ``ConfigError`` as ``make_stages`` does."""
    stage = next(stage for stage in make_stages(config) if "judge" in stage.steps)
    return Stage(("judge",), stage.engine)


def judged(config: CompareConfig, pmids: npt.NDArray[np.int64], log: Path) -> pa.Table:
    """``VERDICTS`` of the abstracts whose old and new question differ."""
    with tempfile.TemporaryDirectory(dir=config.out.parent, prefix=f".{config.out.name}.") as name:
        folder = Path(name).absolute()
        (folder / "duels").mkdir()
        for number, table in enumerate(_duels(config.old, config.new, pmids)):
            if len(table):
                pq.write_table(table, folder / "duels" / f"{number:05}.parquet", row_group_size=256)
        if not any((folder / "duels").iterdir()):
            return VERDICTS.empty_table()
        with ray_session(config.cluster, log) as terminal:
            _ask(config, folder, terminal)
        found = pq.read_table(folder / "verdicts", schema=VERDICTS)
        shutil.rmtree(folder / "verdicts")
        return found


def _duels(old: Path, new: Path, pmids: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    for start in range(0, len(pmids), ABSTRACTS_AT_ONCE):
        some = pmids[start : start + ABSTRACTS_AT_ONCE]
        before, after = _asked(old, some), _asked(new, some)
        rows = []
        for pmid, (title, abstract, now) in after.items():
            then = before[pmid][2]
            for kind in KINDS:
                one, other = then.get(kind), now.get(kind)
                if one and other and one["question"] != other["question"]:
                    row = {"pmid": pmid, "kind": kind, "title": title, "abstract": abstract}
                    rows.append(row | {"candidates": [one, other]})
        yield pa.Table.from_pylist(rows, DUELS)


def _asked(run: Path, pmids: npt.NDArray[np.int64]) -> dict[int, tuple[str, str, dict[str, Any]]]:
    """Title, abstract and the candidates by kind, of each abstract."""
    wanted = pc.field("pmid").isin(pa.array(pmids))
    columns = ["pmid", "title", "abstract", "preferred", "candidates"]
    found = {}
    scanned: ds.Scanner = records(run).scanner(columns=columns, filter=wanted)
    for batch in scanned.to_batches():
        for row in batch.to_pylist():
            candidates = row["candidates"] or []
            by_kind = {one["agent"]: one for one in candidates}
            if row["preferred"] is not None:
                by_kind[PREFERRED] = candidates[row["preferred"]]
            found[row["pmid"]] = (row["title"], row["abstract"], by_kind)
    return found


def _ask(config: CompareConfig, folder: Path, terminal: TextIO) -> None:
    stage = judge_stage(config)
    plan = make_plan(config, cluster_nodes(config.cluster))
    pool = next(pool for part in plan.parts for pool in part if "judge" in pool.stage.steps)
    total = sum(pq.read_metadata(file).num_rows for file in (folder / "duels").iterdir())
    print(f"compare: the judge is asked about {total:,} pairs of questions", file=terminal)
    rows = ray.data.read_parquet(str(folder / "duels")).repartition(
        target_num_rows_per_block=config.cluster.rows_per_block
    )
    rows = rows.map_batches(
        PairJudge,
        batch_format="pyarrow",
        batch_size=config.cluster.rows_per_block,
        fn_constructor_kwargs={"config": config, "stage": stage},
        compute=ray.data.ActorPoolStrategy(size=pool.replicas, max_concurrent_calls_per_actor=8),
        num_cpus=pool.demand.cpus,
        num_gpus=pool.demand.gpus,
        runtime_env={"env_vars": engine_environment(config.cluster, pool.replicas)},
    )
    rows.write_parquet(str(folder / "verdicts"))


class PairJudge:
    """Ray Data actor: hosts the judge's engine; ``DUELS`` in, ``VERDICTS`` out."""

    def __init__(self, config: CompareConfig, stage: Stage):
        """Start the engine."""
        self._engine = start_vllm(stage.engine)
        unused: Any = None
        given: Any = config  # of a run's configuration the judge needs what a comparison's has, too
        self._distiller = Distiller(given, stage.steps, self._engine, unused, unused)
        self._room = asyncio.Semaphore(config.cluster.rows_in_flight)

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """Judge the pairs of a batch at the same time."""
        made = await asyncio.gather(*(self._verdict(row) for row in batch.to_pylist()))
        yield pa.Table.from_pylist(made, VERDICTS)

    async def _verdict(self, row: dict[str, Any]) -> dict[str, Any]:
        async with self._room:
            try:
                probabilities, orders = await self._distiller.verdicts(row | {"usage": []})
            except EngineDeadError:
                raise
            except RejectedRowError:  # its prompt is too long
                return {"pmid": row["pmid"], "kind": row["kind"], "probability": None, "orders": None}
        old, new = probabilities
        # A pointwise judge gives each its own probability; the higher one is preferred.
        mine = new if orders else 0.5 + (new - old) / 2
        return {"pmid": row["pmid"], "kind": row["kind"], "probability": mine, "orders": orders}

    def __del__(self) -> None:
        """Stop the engine's processes in good order."""
        if engine := getattr(self, "_engine", None):
            engine.shutdown()


def by_kind(
    verdicts: pa.Table, pmids: npt.NDArray[np.int64]
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Of each kind, the new question's probability (n,), NaN where nothing was asked, and ``orders`` (m, 2)."""
    found = {}
    for kind in KINDS:
        mine = verdicts.filter(pc.equal(verdicts["kind"], kind))
        probabilities = np.full(len(pmids), np.nan)
        known = mine.filter(pc.is_valid(mine["probability"]))
        probabilities[np.searchsorted(pmids, known["pmid"].to_numpy())] = known["probability"].to_numpy()
        pairs = known.filter(pc.is_valid(known["orders"]))["orders"].to_pylist()
        found[kind] = probabilities, np.array(pairs, float).reshape(-1, 2)
    return found
