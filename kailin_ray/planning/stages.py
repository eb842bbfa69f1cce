"""Agents to stages: which of them share an engine, and which of them follow one another on it.

Sample: with a model for both question agents and another for the answer agent the stages are
``(general, biomedical, rule)`` and ``(answer)``; with one model for all there is one.
"""

from dataclasses import dataclass, replace
from itertools import groupby

from kailin_ray.config import Layout, Model
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.errors import ConfigError
from kailin_ray.schema import ASKING, EVALUATION, STEPS

QUESTION_AGENTS = ("general", "biomedical")
AGENTS = (*QUESTION_AGENTS, "judge", "answer")
RULE = "rule"
"""The step after the question agents. It needs no engine, so it belongs to the stage of the last of them."""


@dataclass(frozen=True)
class Stage:
    """Steps of an abstract's way that follow one another on one engine."""

    steps: tuple[str, ...]
    """Agents in their order, and ``rule`` after the last question agent."""
    engine: EngineSpec

    @property
    def agents(self) -> tuple[str, ...]:
        """The steps that ask the engine."""
        return tuple(step for step in self.steps if step != RULE)

    @property
    def name(self) -> str:
        """Such as ``general+biomedical``; good for a file's name."""
        return "+".join(self.agents)


def make_stages(config: Layout) -> tuple[Stage, ...]:
    """The stages of a configuration, in order; the question agents in the order that makes the fewest stages.

    Raises ``ConfigError`` if an agent has no model, or ``config.stages`` are not the last ones.
    """
    later = config.stages
    if later not in (STEPS, STEPS[1:], STEPS[2:]):
        raise ConfigError(f"stages: {list(later)}; allowed: {', '.join(str(list(STEPS[i:])) for i in range(3))}")
    judge = ("judge",) if EVALUATION in later and config.evaluation.by != RULE else ()
    orders = (QUESTION_AGENTS, QUESTION_AGENTS[::-1]) if ASKING in later else ((),)
    return min((_stages(config.model, asked, (*judge, "answer"), later) for asked in orders), key=len)


def judge_stage(model: Model) -> Stage:
    """The judge alone on an engine. Raises ``ConfigError`` if it has no model."""
    return Stage(("judge",), _build_engine_spec(model, engine_of(model, "judge"), ["judge"]))


def _stages(model: Model, asked: tuple[str, ...], others: tuple[str, ...], later: tuple[str, ...]) -> tuple[Stage, ...]:
    steps: dict[str, tuple[str, ...]] = {name: (name,) for name in (*asked, *others)}
    if EVALUATION in later:
        # The rule follows the last question agent; where none asks, it comes first.
        name = asked[-1] if asked else others[0]
        steps[name] = (name, RULE) if asked else (RULE, name)
    stages = []
    for engine, following in _group_by_engine(model, tuple(steps)):
        spec = _build_engine_spec(model, engine, following)
        stages.append(Stage(tuple(step for name in following for step in steps[name]), spec))
    return tuple(stages)


def _build_engine_spec(model: Model, engine: EngineSpec, agents: list[str]) -> EngineSpec:
    """An engine with what its agents need besides the model."""
    adapters = (getattr(model, name).adapter for name in agents)
    return replace(
        engine, adapters=tuple(dict.fromkeys(one for one in adapters if one)), float32_head="judge" in agents
    )


def _group_by_engine(model: Model, agents: tuple[str, ...]) -> list[tuple[EngineSpec, list[str]]]:
    served = [(engine_of(model, name), name) for name in agents]
    return [(engine, [name for _, name in group]) for engine, group in groupby(served, key=lambda pair: pair[0])]


def engine_of(model: Model, name: str) -> EngineSpec:
    """The engine that an agent asks for; agents with equal ones share it.

    Raises ``ConfigError`` if neither the agent nor the configuration names a model.
    """
    agent = getattr(model, name)
    path = agent.path or model.path
    if path is None:
        raise ConfigError(f"model.{name}.path: missing, as there is no model.path for all agents either")
    return EngineSpec(
        path=path,
        revision=agent.revision if agent.path else model.revision,
        args=model.engine | agent.engine,
        chat_template=model.chat_template | agent.chat_template,
    )
