from dataclasses import replace
from typing import Any

import pytest

from kailin_ray.config import DistillConfig
from kailin_ray.errors import ConfigError
from kailin_ray.planning.stages import Stage, make_stages

A, B, C = "models/a", "models/b", "models/c"


def with_models(
    config: DistillConfig, common: str | None, method: str = "rule", **agents: dict[str, Any]
) -> DistillConfig:
    changed = {name: replace(getattr(config.model, name), **fields) for name, fields in agents.items()}
    model = replace(config.model, path=common, engine={"max_model_len": 512}, **changed)
    return replace(config, model=model, evaluation=replace(config.evaluation, method=method))


def steps(stages: tuple[Stage, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(stage.engine.path, stage.steps) for stage in stages]


def test_one_model_is_one_stage(config: DistillConfig) -> None:
    (stage,) = make_stages(with_models(config, A))
    assert stage.steps == ("general", "biomedical", "rule", "answer")
    assert (stage.name, stage.engine.float32_head) == ("general+biomedical+answer", False)
    (stage,) = make_stages(with_models(config, A, method="judge"))
    assert stage.steps == ("general", "biomedical", "rule", "judge", "answer")
    assert stage.engine.float32_head


def test_agents_that_follow_one_another_on_one_model_are_a_stage(config: DistillConfig) -> None:
    answered = with_models(config, A, answer={"path": B})
    assert steps(make_stages(answered)) == [(A, ("general", "biomedical", "rule")), (B, ("answer",))]
    papers = with_models(config, C, method="judge", general={"path": A}, biomedical={"path": B})
    assert steps(make_stages(papers)) == [(A, ("general",)), (B, ("biomedical", "rule")), (C, ("judge", "answer"))]


def test_the_question_agents_are_ordered_so_that_stages_are_few(config: DistillConfig) -> None:
    # Asked first, the biomedical agent leaves general and answer on one engine.
    found = make_stages(with_models(config, A, biomedical={"path": B}))
    assert steps(found) == [(B, ("biomedical",)), (A, ("general", "rule", "answer"))]


def test_later_steps_alone_are_stages_of_their_own(config: DistillConfig) -> None:
    papers = with_models(config, C, method="judge", general={"path": A}, biomedical={"path": B})
    (stage,) = make_stages(replace(papers, stages=("evaluation", "answer")))
    assert (stage.engine.path, stage.steps) == (C, ("rule", "judge", "answer"))
    (stage,) = make_stages(replace(papers, stages=("answer",)))
    assert (stage.steps, stage.engine.float32_head) == (("answer",), False)
    (stage,) = make_stages(replace(with_models(config, A), stages=("evaluation", "answer")))
    assert stage.steps == ("rule", "answer")
    with pytest.raises(ConfigError, match=r"stages: \['evaluation'\]; allowed: .*, \['answer'\]$"):
        make_stages(replace(papers, stages=("evaluation",)))


def test_a_judge_that_is_not_asked_needs_no_engine(config: DistillConfig) -> None:
    assert len(make_stages(with_models(config, A, judge={"path": B}))) == 1


def test_other_arguments_make_another_engine_and_adapters_do_not(config: DistillConfig) -> None:
    fields = {"general": {"adapter": "lora/x"}, "biomedical": {"adapter": "lora/y"}}
    (stage,) = make_stages(with_models(config, A, **fields))
    assert stage.engine.adapters == ("lora/x", "lora/y")
    stages = make_stages(with_models(config, A, answer={"engine": {"max_model_len": 1024, "max_num_seqs": 8}}))
    assert [stage.engine.args for stage in stages] == [
        {"max_model_len": 512},
        {"max_model_len": 1024, "max_num_seqs": 8},
    ]
    assert len(make_stages(with_models(config, A, answer={"chat_template": {"enable_thinking": False}}))) == 2


def test_the_revision_is_that_of_the_agent_s_own_model(config: DistillConfig) -> None:
    changed = with_models(config, A, answer={"path": B, "revision": "abc"})
    first, second = make_stages(replace(changed, model=replace(changed.model, revision="xyz")))
    assert (first.engine.revision, second.engine.revision) == ("xyz", "abc")


def test_an_agent_without_a_model_is_refused(config: DistillConfig) -> None:
    with pytest.raises(ConfigError, match=r"model.biomedical.path: missing"):
        make_stages(with_models(config, None, general={"path": A}, answer={"path": B}))
