"""Calls and abstracts in one engine, on real models' shapes: max_num_seqs and max_concurrent_rows."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kailin_ray.distill.progress import is_deadly
from kailin_ray.planning.concurrency import MOST_ROWS
from kailin_ray.planning.plan import Plan, as_json, make_plan
from kailin_ray.planning.pools import GIB, Node, Pool
from kailin_ray.planning.table import describe
from tests.conftest import MODEL
from tests.planning.test_plan import configured
from tests.support.model_configs import config_only

H200 = Node(cpus=16, memory_gib=128, gpus=1, gpu_memory_gib=140)
SMALL = Node(cpus=8, memory_gib=64, gpus=1, gpu_memory_gib=24)
OWN = 345 + 5 * 276 + 40 + 103
"""Tokens of an answer's call without its preamble: abstract, five contexts, task, completion."""
Make = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Make:
    def make(model: str, node: Node, *keys: str, preset: str = "chat") -> Plan:
        path = config_only(tmp_path, model)
        return make_plan(configured(f"model={preset}", f"model.path={path}", "cluster=gpu", *keys), [node])

    return make


def only_pool(plan: Plan) -> Pool:
    ((pool,),) = plan.phases
    return pool


def numbers(plan: Plan) -> tuple[int, int]:
    pool = only_pool(plan)
    assert pool.stage.engine.args["max_num_seqs"] == pool.concurrency.max_num_seqs  # what vLLM gets
    return pool.concurrency.max_num_seqs, pool.concurrency.max_concurrent_rows


@pytest.mark.parametrize(
    ("model", "node", "keys", "kib_a_token", "calls", "rows"),
    [
        ("llama-3-8b", H200, (), 128, 441, 551),
        ("llama-3-8b", H200, ("+model.engine.kv_cache_dtype=fp8",), 64, 882, 1000),
        ("llama-3-8b", SMALL, (), 128, 20, 25),
        ("llama-3-8b-fp8", SMALL, ("+model.engine.kv_cache_dtype=fp8_e4m3",), 64, 91, 113),
        ("qwen3-30b-a3b", H200, (), 96, 368, 460),
    ],
)
def test_the_cache_decides_how_many_calls_and_abstracts_an_engine_has(
    plan: Make, model: str, node: Node, keys: tuple[str, ...], kib_a_token: int, calls: int, rows: int
) -> None:
    found = plan(model, node, *keys)
    pool = only_pool(found)
    cache = 0.92 * node.gpu_memory_gib - 2 - pool.weights_gib
    assert pool.concurrency.agent == "answer"
    assert pool.concurrency.call_tokens == OWN
    assert pool.concurrency.call_bytes == OWN * kib_a_token * 1024
    assert calls == int(0.9 * cache * GIB / (OWN * kib_a_token * 1024))
    assert numbers(found) == (calls, rows)


def test_a_hybrid_model_has_two_states_for_each_call_and_windows_end(plan: Make) -> None:
    hybrid = only_pool(plan("qwen3.5-9b", SMALL, preset="qwen_24gb"))
    # 24 layers with 32 heads of 128 x 128 float32; 8 layers with keys and values of 4 heads of 256
    assert hybrid.concurrency.call_bytes == 2 * 24 * 32 * 128 * 128 * 4 + OWN * 8 * 2 * 4 * 256 * 2
    assert hybrid.concurrency.max_num_seqs == 58
    sliding = only_pool(plan("gemma-4-31b", Node(64, 512, gpus=2, gpu_memory_gib=80), preset="gemma_8x80gb"))
    size = sliding.size
    assert sliding.concurrency.call_bytes == OWN * size.full_bytes + 1024 * size.window_bytes


def test_a_users_numbers_stay(plan: Make) -> None:
    assert numbers(plan("llama-3-8b", H200, "cluster.max_concurrent_rows=77")) == (441, 77)
    assert numbers(plan("llama-3-8b", H200, "+model.engine.max_num_seqs=33")) == (33, 41)
    assert numbers(plan("llama-3-8b", SMALL, "+model.engine.max_num_seqs=512")) == (512, 25)
    both = ("cluster.max_concurrent_rows=2000", "+model.engine.max_num_seqs=2000")
    assert numbers(plan("llama-3-8b", H200, *both)) == (2000, 2000)
    assert numbers(plan("llama-3-8b", H200, "+model.engine.max_num_seqs=null")) == (441, 551)


def test_there_are_limits_whatever_the_cache_holds(plan: Make) -> None:
    huge = Node(cpus=16, memory_gib=128, gpus=1, gpu_memory_gib=800)
    assert numbers(plan("llama-3-8b", huge)) == (1024, 1000)
    # vLLM refuses fewer tokens a step than calls.
    assert numbers(plan("llama-3-8b", huge, "+model.engine.max_num_batched_tokens=512")) == (512, 640)
    assert is_deadly(4, MOST_ROWS)
    assert not is_deadly(4, 1024)
    least = ("model.engine.max_model_len=2600", "+model.engine.kv_cache_memory_bytes=360000000")
    assert numbers(plan("llama-3-8b", H200, *least)) == (1, 1)


def test_on_cpus_vllm_gets_what_the_user_gives(tmp_path: Path) -> None:
    node = Node(cpus=2, memory_gib=24)
    pool = only_pool(make_plan(configured(), [node]))
    assert (pool.stage.engine.args["max_num_seqs"], pool.concurrency.max_concurrent_rows) == (64, 48)
    keys = ("cluster.max_concurrent_rows=null", "~model.engine.max_num_seqs", "model.engine.dtype=bfloat16")
    pool = only_pool(make_plan(configured(f"model.path={MODEL}", *keys), [node]))
    assert "max_num_seqs" not in pool.stage.engine.args
    # A completion of 26 tokens; 30 layers with keys and values of 3 heads of 64
    calls = int(0.9 * 2 * GIB / ((OWN - 103 + 26) * 30 * 2 * 3 * 64 * 2))
    assert pool.concurrency.max_concurrent_rows == int(1.25 * calls)


def test_the_table_and_the_manifest_show_both_numbers(plan: Make) -> None:
    found = plan("llama-3-8b", H200)
    (line,) = (line for line in describe(found).splitlines() if "90% of" in line)
    assert line.split() == (
        "general+biomedical+answer 441 551 90% of 111.8 GiB / 233.5 MiB (1,868 tokens, answer) = 441".split()
    )
    ((note,),) = as_json(found)
    assert (note["max_num_seqs"], note["max_concurrent_rows"]) == (441, 551)
