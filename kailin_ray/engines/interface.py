"""What one call of an engine gives, and how it can fail; apart from the engine, so that knowing it needs no vLLM."""

from dataclasses import dataclass

from kailin_ray.schema import Json


class PromptTooLongError(ValueError):
    """The prompt and the tokens it may generate do not fit into the model's context."""


class EngineDeadError(RuntimeError):
    """The engine's process is gone: nothing more can be asked of it."""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What one call gave, and what it cost in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    probabilities: dict[str, float]
    """Of the words asked for by ``choose``; empty after ``generate``."""
    queue_seconds: float = 0.0
    """Waiting in the engine until it was scheduled."""
    first_token_seconds: float = 0.0
    """From its arrival to its first token (TTFT)."""
    seconds: float = 0.0
    """From its arrival to its end."""
    prompt_hash: str = ""
    """Of the prompt's token ids: the same prompt has the same."""


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine serves: a model with vLLM's arguments, and what its agents need besides."""

    path: str
    revision: str | None
    args: Json
    """vLLM's engine arguments."""
    chat_template: Json
    """Arguments of the chat template."""
    adapters: tuple[str, ...] = ()
    """Directories of the LoRA adapters that its agents use."""
    float32_head: bool = False
    """Logits in float32; see ``vllm_engine.Engine``."""

    @property
    def num_gpus(self) -> int:
        """GPUs of one replica, if it runs on GPUs."""
        return int(self.args.get("tensor_parallel_size", 1)) * int(self.args.get("pipeline_parallel_size", 1))
