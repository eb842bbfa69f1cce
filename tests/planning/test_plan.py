"""What runs where, and what is refused with which arithmetic; machines are described, models are config.json alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.config import Nodes, PlanConfig, check, conf_dir
from kailin_ray.errors import ConfigError
from kailin_ray.planning.plan import Plan, make_plan, nodes_of, retriever_threads
from kailin_ray.planning.pools import Node
from kailin_ray.planning.table import describe
from kailin_ray.runtime import session
from kailin_ray.runtime.nodes import check_encoders
from kailin_ray.runtime.session import encoder_environment, engine_environment
from tests.support.model_configs import config_only

Make = Callable[..., Plan]

BIG = Node(cpus=64, memory_gib=512, gpus=8, gpu_memory_gib=80)
SMALL = Node(cpus=8, memory_gib=64, gpus=1, gpu_memory_gib=24)


def configured(*overrides: str) -> PlanConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(PlanConfig, compose("plan", list(overrides)))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("llama-3-8b", "llama-3-70b", "mistral-7b"):
        config_only(folder, name)
    return folder


@pytest.fixture(scope="module")
def plan(models: Path) -> Make:
    def make(nodes: list[Node], *overrides: str, model: str = "llama-3-8b") -> Plan:
        keys = ["model=chat", f"model.path={models}/{model}", "cluster=gpu", *overrides]
        return make_plan(configured(*(key.replace("{models}", str(models)) for key in keys)), nodes)

    return make


PAPER = (
    "model.biomedical.path={models}/mistral-7b",
    "model.answer.path={models}/llama-3-70b",
    "+model.answer.engine.tensor_parallel_size=4",
)


def replicas(plan: Plan) -> list[list[tuple[str, int, float]]]:
    return [[(pool.stage.name, pool.replicas, pool.demand.gpus) for pool in phase] for phase in plan.phases]


def test_one_model_takes_every_gpu(plan: Make) -> None:
    assert replicas(plan([BIG])) == [[("general+biomedical+answer", 8, 1)]]
    assert replicas(plan([BIG] * 3)) == [[("general+biomedical+answer", 24, 1)]]
    assert replicas(plan([BIG], "cluster.num_engines=3")) == [[("general+biomedical+answer", 3, 1)]]


def test_stages_stand_side_by_side_with_replicas_by_their_work(plan: Make) -> None:
    found = plan([BIG] * 4, *PAPER)
    ((general, biomedical, answer),) = found.phases
    assert [pool.demand.gpus for pool in found.phases[0]] == [1, 1, 4]
    assert sum(pool.replicas * pool.demand.gpus for pool in found.phases[0]) <= 32
    # No pool starves another: each could give what the slowest does, and with one replica fewer it could not.
    slowest = max(pool.work / pool.replicas for pool in found.phases[0])
    for pool in (general, biomedical):
        assert pool.work / pool.replicas <= slowest
        assert pool.replicas == 1 or pool.work / (pool.replicas - 1) >= 0.8 * slowest
    assert answer.work > 3 * general.work
    assert answer.replicas >= 5


def test_what_does_not_fit_side_by_side_is_cut(plan: Make) -> None:
    four = replace(BIG, gpus=4)
    assert replicas(plan([four], *PAPER)) == [[("general", 2, 1), ("biomedical", 2, 1)], [("answer", 1, 4)]]
    assert [len(phase) for phase in plan([BIG], *PAPER, "cluster.stage_placement=sequential").phases] == [1, 1, 1]


@pytest.mark.parametrize(
    ("nodes", "model", "keys", "fault"),
    [
        (
            [SMALL], "llama-3-70b", (),
            r"model.general: .*llama-3-70b does not fit: 70.6 B parameters are 131.4 GiB of weights, on 1 GPU 131.4 "
            r"each; with 2 for activations and 2.5 of KV cache for 8,192 tokens that is 135.9 GiB; a GPU has 24 x 0.92 "
            r"= 22.1$",
        ),
        ([BIG], "llama-3-70b", (), r"a GPU has 80 x 0.92 = 73.6; tensor_parallel_size=2 would do"),
        (
            [replace(BIG, gpus=2)], "llama-3-8b", (*PAPER[:1], "model.answer.path={models}/llama-3-8b",
             "+model.answer.engine.max_num_seqs=8", "cluster.stage_placement=together"),
            r"3 stages side by side need 1 x 1 \(general\) \+ 1 x 1 \(biomedical\) \+ 1 x 1 \(answer\) = 3 GPUs; "
            r"the cluster has 2; cluster.stage_placement=auto runs them one after another",
        ),
        (
            [BIG], "llama-3-8b", ("retrieval.top_k=40",),
            r"the answer agent's prompt of about 550 \(preamble\) \+ 345 \(abstract\) \+ 13,800 \(contexts\) \+ "
            r"40 \(task\) \+ 256 \(completion\) = 14,991 tokens is longer than the 8,192 of .*; lower retrieval.top_k",
        ),
        (
            [BIG], "llama-3-8b", ("model.engine.max_model_len=16384",),
            r"max_model_len 16,384 is longer than the 8,192 tokens of .*llama-3-8b \(max_position_embeddings",
        ),
        (
            [replace(BIG, gpus=2)], "llama-3-70b", ("+model.engine.tensor_parallel_size=4",),
            r"takes 4 GPUs of one machine \(tensor_parallel_size x pipeline_parallel_size\); the largest has 2",
        ),
        (
            [BIG], "llama-3-8b", ("cluster.num_engines=9",),
            r"cluster: 9 x 1 \(general\+biomedical\+answer\) = 9 GPUs; the cluster has 8",
        ),
        (
            [replace(BIG, cpus=4)], "llama-3-8b", ("cluster.num_engines=4",),
            r"4 x 1 \(general\+biomedical\+answer\) \+ 1 x 1 \(to read and write\) = 5 CPUs; the cluster has 4",
        ),
        (
            [replace(BIG, gpus=3)] * 2, "llama-3-70b",
            ("+model.engine.tensor_parallel_size=2", "cluster.num_engines=3"),
            r"3 x 2 GPUs of 80 GiB and 1 CPUs \(general\+biomedical\+answer\) do not fit on its 2 machines",
        ),
        (
            [Node(cpus=8, memory_gib=24)], "llama-3-70b", ("cluster.device=cpu",),
            r"on CPUs the engine of .*llama-3-70b needs kv_cache_memory_bytes",
        ),
        (
            [Node(cpus=8, memory_gib=24)], "llama-3-70b",
            ("cluster.device=cpu", "+model.engine.kv_cache_memory_bytes=4294967296"),
            r"131.4 GiB of weights, with 4.0 GiB of KV cache 135.4 GiB; the largest machine has 24.0",
        ),
        (
            [Node(cpus=2, memory_gib=24)] * 2, "llama-3-8b",
            ("cluster.device=cpu", "+model.engine.kv_cache_memory_bytes=4294967296", "cluster.cpus_per_engine=1.5",
             "cluster.num_engines=2"),
            r"2 x 1.5 CPUs and 19.0 GiB \(general\+biomedical\+answer\) do not fit on its 2 machines",
        ),
        (
            [Node(cpus=8, memory_gib=24)], "llama-3-8b",
            ("cluster.device=cpu", "+model.engine.kv_cache_memory_bytes=1000"),
            r"kv_cache_memory_bytes of 0.00 GiB holds less than one text of max_model_len 8,192 tokens, which",
        ),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_the_arithmetic(
    plan: Make, nodes: list[Node], model: str, keys: tuple[str, ...], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        plan(nodes, *keys, model=model)


def test_a_model_of_an_unknown_kind_is_refused(plan: Make, models: Path) -> None:
    (models / "odd").mkdir()
    (models / "odd" / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(ConfigError, match=r"model.general: the size of .*odd cannot be computed"):
        plan([BIG], model="odd")


def test_the_memory_adds_up(plan: Make) -> None:
    (pool,) = plan([BIG], "+model.engine.tensor_parallel_size=2", model="llama-3-70b").phases[0]
    assert pool.weights_gib == pytest.approx(131.4 / 2, abs=0.1)
    assert pool.cache_gib == pytest.approx(80 * 0.92 - 2 - 131.4 / 2, abs=0.1)
    assert pool.concurrency.cache_bytes == int(pool.cache_gib * 2 * 2**30)  # of both GPUs


def test_engines_find_the_machines_whose_gpus_are_big_enough(plan: Make) -> None:
    mixed = [replace(SMALL, identity="small"), replace(BIG, gpus=2, identity="big")]
    (pool,) = plan(mixed, "+model.engine.max_num_seqs=64", "model.engine.max_model_len=4096").phases[0]
    assert (pool.replicas, pool.demand.gpu_memory_gib) == (3, 24)  # 15 GiB of weights: everywhere
    (pool,) = plan(mixed, "+model.engine.dtype=float32").phases[0]
    assert (pool.demand.gpu_memory_gib, pool.machines) == (80, ("big", "big"))


def test_each_machine_whose_engines_ask_has_a_retriever_with_its_gpu(plan: Make) -> None:
    nodes = [replace(BIG, gpus=3, identity="a"), replace(BIG, gpus=3, identity="b")]
    found = plan(nodes, "cluster.gpus_per_encoder=0.5")
    # The fullest machine is filled first; were its GPUs all the engines', the retriever would have none.
    assert [sorted(pool.machines) for pool in found.phases[0]] == [["a", "a", "b", "b"]]
    assert found.retrievers == (("a", "b"),)
    assert plan(nodes[:1]).retrievers == (("a",),)
    with pytest.raises(
        ConfigError,
        match=r"5 x 1 GPUs of 80 GiB and 1 CPUs \(.*\), on each machine whose engines ask 0.5 of a GPU \(retriever\) "
        "do not fit on its 2 machines",
    ):
        plan(nodes, "cluster.gpus_per_encoder=0.5", "cluster.num_engines=5")
    with pytest.raises(ConfigError, match=r"6 x 1 \(.*\) \+ 1 x 0.5 \(retriever\) = 6.5 GPUs; the cluster has 6"):
        plan(nodes, "cluster.gpus_per_encoder=0.5", "cluster.num_engines=6")


def test_so_many_retrievers_are_shared_out_among_the_engines_that_ask(plan: Make) -> None:
    nodes = [replace(BIG, identity="a"), replace(BIG, gpus=1, identity="b"), Node(8, 64, identity="c")]
    for number, machines in ((1, ["a"]), (3, ["a", "a", "b"]), (9, ["a"] * 8 + ["b"])):
        made = plan(nodes, f"cluster.num_retrievers={number}")
        assert made.phases[0][0].replicas == 9
        assert sorted(made.retrievers[0]) == machines
    # The one GPU of b is an engine's, so all go where two are left.
    (found,) = plan(
        nodes, "cluster.num_retrievers=3", "cluster.gpus_per_encoder=0.5", "cluster.num_engines=7"
    ).retrievers
    assert found == ("a", "a", "a")
    with pytest.raises(ConfigError, match=r"7 x 1 \(.*\) \+ 3 x 1 \(retriever\) = 10 GPUs; the cluster has 9"):
        plan(nodes, "cluster.num_retrievers=3", "cluster.gpus_per_encoder=1", "cluster.num_engines=7")


def test_no_retriever_lies_across_two_gpus(plan: Make) -> None:
    four = [replace(BIG, gpus=4)]
    keys = ("cluster.gpus_per_encoder=0.4", "cluster.num_retrievers=5")
    assert replicas(plan(four, *keys)) == [[("general+biomedical+answer", 1, 1)]]
    # 5 x 0.4 is 2, but two GPUs hold four retrievers of 0.4.
    with pytest.raises(ConfigError, match=r"2 x 1 GPUs .* 5 x 0.4 of a GPU \(retriever\) do not fit on its 1 machines"):
        plan(four, *keys, "cluster.num_engines=2")


def test_a_retriever_has_the_cores_that_nobody_holds(plan: Make) -> None:
    nodes = [replace(BIG, identity="a"), replace(BIG, cpus=3, gpus=2, identity="b")]
    assert retriever_threads(plan(nodes), 0) == [64 - 8 - 1, 1]
    assert retriever_threads(plan(nodes[:1], "cluster.num_retrievers=2"), 0) == [27, 27]
    assert retriever_threads(plan([replace(BIG, gpus=4, identity="a")], *PAPER), 1) == []


def test_a_part_without_question_agents_has_no_retriever(plan: Make) -> None:
    found = plan([replace(BIG, gpus=4, identity="a")], *PAPER, "cluster.num_retrievers=2")
    assert found.retrievers == (("a", "a"), ())
    assert [line for line in describe(found).splitlines() if "retrievers" in line] == [
        "  retrievers of phase 1: 2, on 1 of 1 machines (2)"
    ]
    found = plan(nodes_of(Nodes(count=3, cpus=8, memory_gib=64, gpus=1, gpu_memory_gib=80)), "cluster.num_engines=2")
    assert "  retrievers: 2, on 2 of 3 machines" in describe(found).splitlines()


def test_an_adapter_reads_the_abstract_for_itself(plan: Make) -> None:
    (shared,) = plan([BIG]).phases[0]
    (apart,) = plan([BIG], "model.answer.adapter=some/where").phases[0]
    assert apart.calls["answer"].fresh == shared.calls["answer"].fresh + 345
    assert apart.calls["biomedical"] == shared.calls["biomedical"]


@given(
    st.lists(st.sampled_from([BIG, SMALL, replace(BIG, gpus=4)]), min_size=1, max_size=5),
    st.sampled_from(["auto", "never", "always"]),
    st.booleans(),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([0, 0.5, 1]),
)
@settings(max_examples=40)
def test_every_plan_does_every_step_once_with_what_there_is(
    plan: Make, nodes: list[Node], placement: str, own: bool, number: int | None, share: float
) -> None:
    keys = [*(PAPER[:1] if own else PAPER), f"cluster.num_retrievers={'null' if number is None else number}"]
    nodes = [replace(node, identity=str(i)) for i, node in enumerate(nodes)]
    try:
        found = plan(nodes, *keys, f"cluster.stage_placement={placement}", f"cluster.gpus_per_encoder={share}")
    except ConfigError:
        return
    steps = [step for phase in found.phases for pool in phase for step in pool.stage.steps]
    assert sorted(steps) == ["answer", "biomedical", "general", "rule"]
    assert steps[-2:] == ["rule", "answer"]
    for phase, retrievers in zip(found.phases, found.retrievers, strict=True):
        assert sum(pool.replicas * pool.demand.gpus for pool in phase) <= sum(node.gpus for node in nodes)
        assert all(pool.replicas >= 1 for pool in phase)
        asking = [machine for pool in phase if "general" in pool.stage.agents for machine in pool.machines]
        asking += [machine for pool in phase if "biomedical" in pool.stage.agents for machine in pool.machines]
        if number is None:
            assert sorted(retrievers) == sorted(set(asking))
        else:
            assert len(retrievers) == (number if asking else 0)
        for machine, node in enumerate(nodes):
            held = sum(pool.demand.gpus * pool.machines.count(str(machine)) for pool in phase)
            assert held + share * retrievers.count(str(machine)) <= node.gpus
    assert len(found.phases) == 1 or placement != "together"


def test_the_table_shows_the_arithmetic(plan: Make) -> None:
    shown = describe(plan([replace(BIG, gpus=4)], *PAPER))
    for line in (
        "1 x  4 GPUs of 80 GiB, 64 CPUs, 512 GiB of memory",
        "llama-3-70b: 70.55 B parameters, 131.4 GiB of weights, 320 KiB of KV cache a token, 8,192 tokens long",
        "the phases run one after another over all abstracts",
    ):
        assert line in shown
    assert [line.split()[:5] for line in shown.splitlines() if line.startswith(("  1     ", "  2     "))] == [
        ["1", "general", "2", "x", "1"],
        ["1", "biomedical", "2", "x", "1"],
        ["2", "answer", "1", "x", "4"],
    ]


@pytest.mark.parametrize(
    ("preset", "model", "nodes"),
    [
        ("qwen_24gb", "qwen3.5-9b", [SMALL]),
        ("qwen_80gb", "qwen3.8-27b-fp8", [replace(BIG, gpus=1)]),
        ("gemma_8x80gb", "gemma-4-31b", [BIG]),
    ],
)
def test_a_preset_fits_what_it_is_for(tmp_path: Path, preset: str, model: str, nodes: list[Node]) -> None:
    found = make_plan(configured(f"model={preset}", f"model.path={config_only(tmp_path, model)}", "cluster=gpu"), nodes)
    assert [len(phase) for phase in found.phases] == [1]
    assert 16 < found.phases[0][0].concurrency.max_num_seqs < 256


def test_the_paper_s_preset_fits_eight_gpus(models: Path) -> None:
    paths = {"general": "llama-3-8b", "biomedical": "mistral-7b", "judge": "llama-3-70b", "answer": "llama-3-70b"}
    keys = [f"model.{agent}.path={models}/{name}" for agent, name in paths.items()]
    found = make_plan(configured("model=paper", "cluster=gpu", "evaluation.method=judge", *keys), [BIG])
    assert [pool.stage.name for pool in found.phases[0]] == ["general", "biomedical", "judge+answer"]


def test_encoders_that_the_cluster_lacks_are_refused() -> None:
    cluster = configured("cluster.num_encoders=4").cluster
    check_encoders(cluster, [Node(cpus=5, memory_gib=8)])
    with pytest.raises(ConfigError, match="4 encoders x 1 = 4 CPUs, plus one for reading and writing; .* has 4"):
        check_encoders(cluster, [Node(cpus=4, memory_gib=8)])
    with pytest.raises(ConfigError, match=r"4 encoders x 0.5 = 2 GPUs; the cluster has 1"):
        check_encoders(replace(cluster, gpus_per_encoder=0.5), [Node(8, 8, gpus=1)])


@pytest.mark.parametrize(
    ("share", "nodes", "most"),
    [
        (0.25, [Node(8, 8, gpus=1)], 4),
        (0.1, [Node(64, 8, gpus=2)], 20),
        (1, [Node(8, 8, gpus=2), Node(8, 8, gpus=1)], 3),
        (0.4, [Node(8, 8, gpus=2)], 4),  # two on each GPU, though 5 x 0.4 = 2
        (2, [Node(8, 8, gpus=3), Node(8, 8, gpus=3)], 2),  # one on each machine, though 3 x 2 = 6
        (0.25, [Node(2, 8, gpus=1), Node(8, 8)], 2),  # an encoder's CPU is on the machine of its GPU
    ],
)
def test_encoders_share_a_gpu_and_none_spans_two(share: float, nodes: list[Node], most: int) -> None:
    cluster = replace(configured().cluster, gpus_per_encoder=share)
    check_encoders(replace(cluster, num_encoders=most), nodes)
    with pytest.raises(ConfigError, match=f"{most + 1} encoders x {share:g} = .* which hold {most} such encoders"):
        check_encoders(replace(cluster, num_encoders=most + 1), nodes)


def test_with_one_gpu_a_share_for_questions_is_refused_with_the_remedy(plan: Make) -> None:
    """An engine takes the whole GPU: the questions are encoded on CPUs."""
    one = [replace(BIG, gpus=1, identity="a")]
    remedy = r"= 1.1 GPUs; the cluster has 1; an engine takes whole GPUs, cluster.gpus_per_encoder=0 encodes questions"
    with pytest.raises(ConfigError, match=remedy):
        plan(one, "cluster.gpus_per_encoder=0.1")
    assert replicas(plan(one, "cluster.gpus_per_encoder=0")) == [[("general+biomedical+answer", 1, 1)]]
    with pytest.raises(ConfigError, match=r"= 2.1 GPUs; the cluster has 1$"):  # which would not help
        plan(one, "cluster.gpus_per_encoder=0.1", "cluster.num_engines=2")


def test_engines_on_cpus_share_the_cores_and_engines_on_gpus_need_no_setting() -> None:
    cluster: Any = configured().cluster
    assert engine_environment(replace(cluster, threads_per_engine=3), 2)["OMP_NUM_THREADS"] == "3"
    assert engine_environment(replace(cluster, device="gpu"), 2) == {}


def test_threads_are_shared_out_by_the_cores_that_ray_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's or an allocation's: the host may have many more."""
    counted = [{"Alive": True, "Resources": {"CPU": cpus}} for cpus in (16.0, 8.0, 8.0)]
    head, gone = {"Alive": True, "Resources": {}}, {"Alive": False, "Resources": {"CPU": 1.0}}
    monkeypatch.setattr(session.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(session.ray, "nodes", lambda: [head, gone, *counted])
    cluster: Any = configured().cluster
    assert [engine_environment(cluster, engines)["OMP_NUM_THREADS"] for engines in (1, 2, 16)] == ["8", "4", "1"]
    for encoders, threads in ((1, "16"), (4, "8"), (8, "4"), (64, "1")):
        assert encoder_environment(replace(cluster, num_encoders=encoders)) == {"OMP_NUM_THREADS": threads}
