"""Group agents into stages: the agents of a stage are consecutive and share an engine.

Example: with one model for both question agents and another model for the answer agent, the stages are
``(general, biomedical, rule)`` and ``(answer)``. With one model for all agents there is one stage.
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
    """Consecutive steps of an abstract on one engine."""

    steps: tuple[str, ...]
    """Agents in order, and ``rule`` after the last question agent."""
    engine: EngineSpec

    @property
    def agents(self) -> tuple[str, ...]:
        """The steps that use the engine."""
        return tuple(step for step in self.steps if step != RULE)

    @property
    def name(self) -> str:
        """A name such as ``general+biomedical`` that can be a file name."""
        return "+".join(self.agents)


def make_stages(config: Layout) -> tuple[Stage, ...]:
    """Return the stages of a configuration, in order. The order of the question agents is the one with fewest stages.

    Raises ``ConfigError`` if an agent has no model, or if ``config.stages`` is not the end of ``STEPS``.
    """
    later = config.stages
    if later not in (STEPS, STEPS[1:], STEPS[2:]):
        raise ConfigError(f"stages: {list(later)}; allowed: {', '.join(str(list(STEPS[i:])) for i in range(3))}")
    judge = ("judge",) if EVALUATION in later and config.evaluation.method != RULE else ()
    orders = (QUESTION_AGENTS, QUESTION_AGENTS[::-1]) if ASKING in later else ((),)
    return min(
        (_stages(config.model, question_agents, (*judge, "answer"), later) for question_agents in orders), key=len
    )


def judge_stage(model: Model) -> Stage:
    """Return a stage of the judge alone. Raises ``ConfigError`` if the judge has no model."""
    return Stage(("judge",), _build_engine_spec(model, engine_of(model, "judge"), ["judge"]))


def _stages(
    model: Model, question_agents: tuple[str, ...], others: tuple[str, ...], later: tuple[str, ...]
) -> tuple[Stage, ...]:
    steps: dict[str, tuple[str, ...]] = {name: (name,) for name in (*question_agents, *others)}
    if EVALUATION in later:
        # The rule follows the last question agent; without question agents it comes first.
        name = question_agents[-1] if question_agents else others[0]
        steps[name] = (name, RULE) if question_agents else (RULE, name)
    stages = []
    for engine, following in _group_by_engine(model, tuple(steps)):
        spec = _build_engine_spec(model, engine, following)
        stages.append(Stage(tuple(step for name in following for step in steps[name]), spec))
    return tuple(stages)


def _build_engine_spec(model: Model, engine: EngineSpec, agents: list[str]) -> EngineSpec:
    """Return the engine with the settings that its agents need besides the model."""
    adapters = (getattr(model, name).adapter for name in agents)
    return replace(
        engine,
        adapters=tuple(dict.fromkeys(adapter for adapter in adapters if adapter)),
        float32_head="judge" in agents,
    )


def _group_by_engine(model: Model, agents: tuple[str, ...]) -> list[tuple[EngineSpec, list[str]]]:
    served = [(engine_of(model, name), name) for name in agents]
    return [(engine, [name for _, name in group]) for engine, group in groupby(served, key=lambda pair: pair[0])]


def engine_of(model: Model, name: str) -> EngineSpec:
    """Return the engine that an agent asks for; agents with equal engines share one.

    Raises ``ConfigError`` if neither the agent nor the configuration names a model.
    """
    agent = getattr(model, name)
    path = agent.path or model.path
    if path is None:
        raise ConfigError(f"model.{name}.path: missing, and there is no model.path for all agents")
    return EngineSpec(
        path=path,
        revision=agent.revision if agent.path else model.revision,
        args=model.engine | agent.engine,
        chat_template=model.chat_template | agent.chat_template,
    )
