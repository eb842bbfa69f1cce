"""Configuration of the agents and their models."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.fields import STRICT, Fraction, NotNegative, Positive
from kailin_ray.schema import Json


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sampling:
    """How an agent samples, in vLLM's terms."""

    max_tokens: Positive
    """The most tokens that one call may generate."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """0 for greedy decoding."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Nucleus sampling: sample from the smallest set of tokens with this total probability."""
    top_k: NotNegative = 0
    """Sample from the k most probable tokens; 0 for all."""
    repetition_penalty: Annotated[float, Field(gt=0.0, le=2.0)] = 1.0
    """Above 1 makes tokens of the prompt and the output less likely."""
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Above 0 makes tokens of the output less likely."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Agent:
    """An agent, and its own model if it does not use the shared one."""

    path: str | None
    """The agent's own model: a local directory or a hub id; null for the shared `model.path`."""
    revision: str | None
    """The hub revision of the agent's own model, best a commit."""
    adapter: str | None
    """A LoRA adapter of the agent's model: a local directory with PEFT's files. Agents with the same model share an
    engine, whatever their adapters."""
    examples: bool
    """Whether the prompt contains the worked examples. Agents that `train` made were trained without them: set
    false."""
    engine: Json
    """vLLM engine arguments for this agent, on top of `model.engine`."""
    chat_template: dict[str, bool | int | float | str]
    """Chat template arguments for this agent, on top of `model.chat_template`."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class QuestionAgent(Agent):
    """One of the two question agents."""

    persona: Literal["clinical", "mechanism", "any"]
    """What the agent is instructed to ask about: clinical use, mechanism, or anything; see `agents/prompts.py`."""
    sampling: Sampling


@dataclass(frozen=True, kw_only=True, config=STRICT)
class JudgeAgent(Agent):
    """The evaluation agent's judge. It is scored by token probabilities, so it has no sampling settings."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AnswerAgent(Agent):
    """The answer agent."""

    sampling: Sampling


Shown = tuple[Literal["source", "contexts"], ...]


def _check_shown(shown: Shown) -> Shown:
    if shown not in (("source", "contexts"), ("contexts",), ("source",)):
        raise ValueError("allowed: [source, contexts], [contexts], [source]")
    return shown


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Answer:
    """What the answer agent is asked with, and what its answer must be like."""

    shown: Annotated[Shown, AfterValidator(_check_shown)]
    """The passages that the answer agent is shown, and that are published as `contexts`: the source abstract and the
    retrieved contexts, only the contexts (the paper's strict setting; set `retrieval.exclude_source=false`, so that
    retrieval may find the source like any other passage), or only the source."""
    max_unseen_numbers: NotNegative | None
    """Reject an answer with more numbers than this that stand in no passage that its agent was shown; null rejects
    none. `unseen_numbers` of a triple lists them in any case."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    """The model that the agents share, and the settings of each agent."""

    path: str | None
    """The model that the agents share: a local directory or a hub id; null if every agent has its own."""
    revision: str | None
    """The hub revision, best a commit; null for a local directory."""
    engine: Json
    """vLLM engine arguments, passed on unchanged."""
    chat_template: dict[str, bool | int | float | str]
    """Chat template arguments, such as enable_thinking."""
    general: QuestionAgent
    biomedical: QuestionAgent
    judge: JudgeAgent
    answer: AnswerAgent


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Judge:
    """How the evaluation agent's language model judges."""

    mode: Literal["pairwise", "pointwise"]
    """pairwise: the judge chooses between the two candidates, asked in both orders. pointwise: it says yes or no to
    each candidate alone."""
    min_margin: Fraction
    """The judge abstains if the candidates' probabilities differ by less than this."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The evaluation agent."""

    method: Literal["rule", "judge", "rule_then_judge"]
    """What prefers a candidate: the MeSH similarity rule, the judge, or the rule first and the judge where it
    abstains."""
    measure: Literal["resnik", "lin", "jc", "rel", "kailin"]
    """The rule's similarity of two descriptors; see `mesh/similarity.py`."""
    aggregate: Literal["bma", "mean"]
    """How the rule combines descriptor similarities: best-match average (bma), or the mean over all pairs."""
    min_margin: Annotated[float, Field(ge=0.0)]
    """The rule abstains if the candidates' scores differ by less than this."""
    judge: Judge
