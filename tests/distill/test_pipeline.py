"""The pipeline on a cluster of several machines, with made-up GPUs and an engine that answers at once."""

import asyncio
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from kailin_ray.config import Nodes
from kailin_ray.corpus.documents import Documents
from kailin_ray.dataset.records import records
from kailin_ray.distill.pipeline import check_complete, distill, find_work
from kailin_ray.engines.interface import Generation
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.planning.plan import make_plan
from kailin_ray.retrieval.search.index import Hit
from kailin_ray.runtime.nodes import cluster_nodes
from tests.conftest import MESH
from tests.planning.test_plan import PAPER, configured
from tests.support.model_configs import config_only


class FakeEngine:
    """Its note tells the most calls that it had at once."""

    def __init__(self, note: Path):
        self.note = note
        self.now = self.most = 0
        note.touch()

    def shutdown(self) -> None:
        self.note.write_text(str(self.most))
        self.note.rename(self.note.with_suffix(".stopped"))

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.1)
        self.now -= 1
        content = messages[-1]["content"]
        words = [word for word in content.split() if word.isalpha() and len(word) > 5][1:6]
        asked = f"Does {' '.join(words)} have an {'effect' if 'yes/no' in content else 'mechanism'}?"
        return made("It had an effect in the patients." if "Evidence from" in content else asked)

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Generation:
        return replace(made(words[0]), probabilities={word: 1 / len(words) for word in words})


def made(text: str) -> Generation:
    return Generation(
        text=text, finish_reason="stop", prompt_tokens=9, cached_tokens=4, completion_tokens=3, probabilities={}
    )


class FakeRetriever:
    async def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    async def search(self, queries: list[Any]) -> list[list[Hit]]:
        await asyncio.sleep(0)
        return [[Hit(1, 0.5, "T", "A", ["D003920"])] for _ in queries]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    ray.shutdown()  # of another test's session on this machine: a process has one
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 0})
    for _ in range(2):
        made.add_node(num_cpus=3, num_gpus=4)
    ray.init(address=made.address, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()


def test_engines_of_one_gpu_leave_a_machine_to_the_engine_of_four(
    cluster: Cluster, documents: Path, tmp_path: Path, config: Any
) -> None:
    for name in ("llama-3-8b", "llama-3-70b", "mistral-7b"):
        config_only(tmp_path, name)
    keys = ["model=chat", f"model.path={tmp_path}/llama-3-8b", "cluster=gpu", *PAPER]
    keys += ["+model.biomedical.engine.max_num_seqs=2"]  # hence two rows at once; the others have more
    asked = configured(*(key.replace("{models}", str(tmp_path)) for key in keys))
    described = Nodes(count=2, cpus=8, memory_gib=64, gpus=4, gpu_memory_gib=80)
    settings = replace(asked.cluster, block_rows=4, nodes=described)
    config = replace(config, model=asked.model, cluster=settings, documents=documents, out=tmp_path / "run", limit=12)
    plan = make_plan(config, cluster_nodes(settings))
    ((general, biomedical, answer),) = plan.phases
    # The engine of four takes a machine for itself, so the others share the second.
    assert general.machines == biomedical.machines != answer.machines
    assert len(answer.machines) == 1

    def start_engine(spec: Any) -> FakeEngine:
        node = ray.get_runtime_context().get_node_id()
        assert spec.args["max_num_seqs"] in {pool.concurrency.max_num_seqs for pool in plan.phases[0]}
        return FakeEngine(tmp_path / f"{Path(spec.path).name}.{node}.{ray.get_runtime_context().get_actor_id()}.up")

    retriever = ray.remote(num_cpus=0)(FakeRetriever).remote()
    work = find_work(config, Documents.open(documents))
    distill(config, plan, work, MeshHierarchy.load(MESH), sys.stderr, start_engine, [retriever])
    check_complete(config, work)
    assert records(config.out).count_rows() == 12
    for pool in plan.phases[0]:
        started = [path.name.split(".")[-3] for path in tmp_path.glob(f"{Path(pool.stage.engine.path).name}.*.*")]
        assert sorted(started) == sorted(pool.machines)
    # Ray lets go of the actors, and each stops its engine in good order.
    deadline = time.monotonic() + 60
    while list(tmp_path.glob("*.up")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(list(tmp_path.glob("*.stopped"))) == 3
    most = {path.name.split(".")[0]: int(path.read_text()) for path in tmp_path.glob("*.stopped")}
    assert most["mistral-7b"] == 2
    assert most["llama-3-8b"] >= 4
