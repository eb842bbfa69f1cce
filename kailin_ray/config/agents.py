"""Configuration of the agents and their models."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT, Fraction, NotNegative, Positive
from kailin_ray.schema import Json


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sampling:
    """How an agent samples; the names are vLLM's."""

    max_tokens: Positive
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NotNegative = 0
    """0 for all."""
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Agent:
    """The model of an agent, where it is not the one of all agents."""

    path: str | None
    """A local directory or a hub id of its own; null for the model of all agents."""
    revision: str | None
    """Of its own model."""
    adapter: str | None
    """A local directory of a LoRA adapter of its model (PEFT's files); agents of one model share its engine."""
    examples: bool
    """Its prompt has the worked examples; an agent that ``train`` made has learned without them."""
    engine: Json
    """vLLM's engine arguments, over those of all agents."""
    chat_template: dict[str, bool | int | float | str]
    """Arguments of the chat template, over those of all agents."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionAgent(Agent):
    """One of the two question agents."""

    persona: Literal["clinical", "mechanism", "any"]
    """What it asks for; see ``agents/prompts.py``."""
    sampling: Sampling


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeAgent(Agent):
    """The evaluation agent's judge; it is read by its probabilities, so nothing is sampled."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnswerAgent(Agent):
    """The answer agent."""

    sampling: Sampling


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The model of all agents that have none of their own, and what each agent does."""

    path: str | None
    """A local directory or a hub id; null where each agent has its own."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    engine: Json
    """vLLM's engine arguments, passed on untouched."""
    chat_template: dict[str, bool | int | float | str]
    """Arguments of the chat template, such as enable_thinking."""
    general: QuestionAgent
    biomedical: QuestionAgent
    judge: JudgeAgent
    answer: AnswerAgent


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Judge:
    """The evaluation agent's language model as a judge."""

    form: Literal["pairwise", "pointwise"]
    """Which of two candidates is better, asked in both orders; or whether each of them suits, asked alone."""
    min_margin: Fraction
    """The judge abstains under this difference of the candidates' probabilities."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The evaluation agent."""

    by: Literal["rule", "judge", "rule_then_judge"]
    """Who prefers; rule_then_judge asks the judge only where the rule abstains."""
    measure: Literal["resnik", "lin", "jc", "rel", "kailin"]
    """Of the rule: similarity of two descriptors; see ``mesh/similarity.py``."""
    aggregate: Literal["bma", "mean"]
    """Of the rule: similarity of two sets of descriptors."""
    min_margin: Annotated[float, Field(ge=0.0)]
    """The rule abstains under this margin."""
    judge: Judge
