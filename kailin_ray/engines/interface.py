"""The result of an engine's call, and its errors. A module of its own, so that importing it does not need vLLM."""

from collections.abc import Sequence
from dataclasses import dataclass

from kailin_ray.schema import Json


class PromptTooLongError(ValueError):
    """The prompt and the tokens to be generated do not fit into the model's context."""


class EngineDeadError(RuntimeError):
    """The engine's process has ended; the engine takes no more calls."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The output of one call, and its cost in tokens."""

    text: str
    """What the model answered, without its reasoning."""
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    probabilities: dict[str, float]
    """The probability of each word that was passed to ``choose``; empty after ``generate``."""
    reasoning: str | None = None
    """What the model wrote before its answer to reason about it; None if nothing."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens of the tokenizer that stand in ``text``: markup that is not understood."""
    queue_seconds: float = 0.0
    """Time in the engine until the call was scheduled."""
    first_token_seconds: float = 0.0
    """Time from the call's arrival to its first token (TTFT)."""
    seconds: float = 0.0
    """Time from the call's arrival to its end."""
    prompt_hash: str = ""
    """Hash of the prompt's token ids: equal prompts have equal hashes."""


@dataclass(frozen=True, kw_only=True)
class RecordedCall:
    """A finished call of an engine, as a benchmark repeats it."""

    prompt: Sequence[int]
    """Token ids."""
    sampling: Json
    words: Sequence[str]
    """What the call chose among; empty for a call that generated."""
    adapter: str | None
    began: float
    """When it came to the engine, in seconds of this process's clock (``time.monotonic``)."""
    generation: Generation


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine serves: a model, vLLM's arguments, and the needs of its agents."""

    path: str
    revision: str | None
    args: Json
    """vLLM's engine arguments."""
    chat_template: Json
    """Arguments of the chat template."""
    adapters: tuple[str, ...] = ()
    """Directories of the LoRA adapters that the agents use."""
    float32_head: bool = False
    """Whether logits are computed in float32; see ``vllm_engine.Engine``."""

    @property
    def num_gpus(self) -> int:
        """The number of GPUs of one replica, if it runs on GPUs."""
        return int(self.args.get("tensor_parallel_size", 1)) * int(self.args.get("pipeline_parallel_size", 1))
