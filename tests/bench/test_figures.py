"""The arithmetic of the figures, on calls made up by hand."""

from dataclasses import replace

import pytest

from kailin_ray.bench.engine import EngineReport, describe_calls
from kailin_ray.bench.figures import compute_figures, middle
from kailin_ray.bench.measure import Measurement, StageMeasurement
from kailin_ray.config import PlanConfig, load
from kailin_ray.engines.interface import Generation, RecordedCall
from kailin_ray.planning.plan import make_plan
from kailin_ray.planning.pools import Node, Pool
from tests.conftest import MODEL


def a_call(began: float, seconds: float, completion: int = 10) -> RecordedCall:
    generation = Generation(
        text="", finish_reason="stop", prompt_tokens=100, cached_tokens=60, completion_tokens=completion,
        probabilities={}, seconds=seconds, first_token_seconds=seconds / 2,
    )  # fmt: skip
    return RecordedCall(prompt=[1], sampling={}, words=(), adapter=None, began=began, generation=generation)


def report(*calls: RecordedCall, bare: float) -> EngineReport:
    described = describe_calls(calls)
    described |= {"bare_seconds": bare, "bare_cpu_seconds": 1.0, "cpu_seconds": 3.0}
    return described


@pytest.fixture(scope="module")
def pool() -> Pool:
    config = load(PlanConfig, "plan", ["cluster=gpu", f"model.path={MODEL}"])
    node = Node(cpus=32, memory_gib=256, gpus=2, gpu_memory_gib=80)
    (phase,) = make_plan(config, [node]).phases
    return phase[0]


def test_figures_are_per_gpu(pool: Pool) -> None:
    assert pool.replicas == 2
    # The first engine has calls from 0 to 3 and from 5 to 6; the second from 0 to 10.
    first = report(a_call(0, 2), a_call(1, 2), a_call(5, 1), bare=6.0)
    second = report(a_call(0, 10), bare=8.0)
    stage = StageMeasurement(pool=pool, seconds=10.0, reports=[first, second], environment={})
    made = Measurement(num_documents=20, num_accepted=5, stages=[stage], machines=[])
    figures = compute_figures(made, gpu_hour_price=2.0, chain_seconds=15.0)
    assert figures["unit"] == "GPU" and figures["num_units"] == 2
    assert figures["unit_seconds"] == 20.0
    assert figures["all_abstracts_per_second"] == 2.0
    assert figures["abstracts_per_second"] == 1.0
    assert figures["accepted_per_hour"] == 900.0
    assert figures["output_tokens_per_second"] == 2.0
    assert figures["new_prompt_tokens_per_second"] == 8.0
    assert figures["cached_prompt_tokens_per_second"] == 12.0
    assert figures["cached_share"] == 0.6
    assert figures["busy_share"] == (4 + 10) / 20
    assert figures["of_bare"] == 0.8  # both engines are done when the slower one is
    assert figures["of_chain"] == 1.5
    assert figures["hours_per_million_abstracts"] == 277.78
    assert figures["price_per_million_abstracts"] == 555.56
    (of_stage,) = figures["stages"]
    assert of_stage["calls_at_once"] == round(15 / 14, 1)
    assert of_stage["cpu_ms"] == 300.0 and of_stage["bare_cpu_ms"] == 100.0


def test_stages_that_run_one_after_another_are_added_up(pool: Pool) -> None:
    stages = [
        StageMeasurement(
            pool=replace(pool, replicas=1), seconds=seconds, reports=[report(a_call(0, 1), bare=bare)], environment={}
        )
        for seconds, bare in ((10.0, 9.0), (30.0, 27.0))
    ]
    made = Measurement(num_documents=40, num_accepted=40, stages=stages, machines=[])
    figures = compute_figures(made, None, None)
    assert figures["seconds"] == 40.0 and figures["abstracts_per_second"] == 1.0
    assert figures["of_bare"] == 0.9 and figures["of_chain"] is None
    assert figures["price_per_million_abstracts"] is None


def test_the_middle_run_is_the_median(pool: Pool) -> None:
    runs = []
    for seconds in (10.0, 40.0, 20.0, 30.0):
        stage = StageMeasurement(pool=pool, seconds=seconds, reports=[report(a_call(0, 1), bare=1.0)], environment={})
        made = Measurement(num_documents=40, num_accepted=1, stages=[stage], machines=[])
        runs.append(compute_figures(made, None, None))
    assert middle(runs)["seconds"] == 30.0
    assert middle(runs[:3])["seconds"] == 20.0
