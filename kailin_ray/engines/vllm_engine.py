"""The vLLM engine, with two operations: generate text, and choose among words with probabilities.

Only this module uses vLLM's engine. Prompts are passed as token ids (``chat_template.py``), so that text of an abstract
can never become a special token.
"""

import asyncio
import dataclasses
import hashlib
import itertools
import json
import math
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm import SamplingParams, TokensPrompt
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.reasoning import ReasoningParserManager
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmEngineDeadError
from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

from kailin_ray.engines.chat_template import Message, choice_ids, find_opened_block, prompt_ids, stop_id
from kailin_ray.engines.cpu import choose_dtype
from kailin_ray.engines.interface import EngineDeadError, EngineSpec, Generation, PromptTooLongError, RecordedCall
from kailin_ray.engines.models import adapter_ranks
from kailin_ray.engines.parent_watch import own_engine
from kailin_ray.engines.reasoning import Output, split_reasoning
from kailin_ray.engines.token_ids import special_ids
from kailin_ray.engines.tokenizer import load_tokenizer
from kailin_ray.schema import Json

_KNOWN_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


class Engine:
    """One vLLM engine that belongs to this process. Many calls may be in flight at the same time."""

    def __init__(self, spec: EngineSpec, ray_metrics: bool = False):
        """Start the engine; return when it can serve.

        ``spec.args`` go to vLLM unchanged and override the defaults set here. On CPUs without fast bfloat16 products a
        ``dtype`` that is not set, or is "auto", becomes float32.
        A float32 head computes the logits in float32. In bfloat16 they have steps of 1/8 or more, so that different
        probabilities become equal. It needs a model whose head is not quantized. ``ray_metrics`` sends vLLM's metrics
        to Ray's Prometheus endpoint.
        """
        own_engine()
        # Weights are data from outside: only safetensors are loaded, unless the user's own arguments say otherwise.
        defaults: Json = {"load_format": "safetensors", "enable_prefix_caching": True}
        own_args = dict(spec.args)
        self._tokenizer = load_tokenizer(spec.path, spec.revision, spec.args)
        # vLLM would wait for the end of the reasoning before it constrains a choice; ``choose`` asks for none.
        self._parser = _reasoning_parser(own_args.pop("reasoning_parser", None), self._tokenizer, spec.chat_template)
        if current_platform.is_cpu():
            own_args["dtype"] = choose_dtype(own_args.get("dtype", "auto"))
        if spec.adapters:
            ranks = [lora_rank(adapter) for adapter in spec.adapters]
            defaults |= {"enable_lora": True, "max_loras": len(ranks), "max_lora_rank": _vllm_rank(max(ranks))}
            if current_platform.is_cpu():
                defaults["worker_extension_cls"] = "kailin_ray.engines.cpu_lora.Extension"
                defaults["lora_target_modules"] = lora_modules(spec.adapters)
        if spec.float32_head:
            own_args["hf_overrides"] = {"head_dtype": "float32"} | (own_args.get("hf_overrides") or {})
        args = AsyncEngineArgs(model=spec.path, revision=spec.revision, **(defaults | own_args))
        loggers: list[Any] | None = [RayPrometheusStatLogger] if ray_metrics else None
        self._llm = AsyncLLM.from_engine_args(args, stat_loggers=loggers)
        self._template = tuple(sorted(spec.chat_template.items()))
        self._open_block = find_opened_block(self._tokenizer, self._template)
        self._special = special_ids(self._tokenizer)
        # The end of a turn is the template's; a model's own list of stop tokens may lack it.
        self._stop_ids = [stop_id(self._tokenizer, self._template)]
        self._adapters = {path: LoRARequest(path, i, path) for i, path in enumerate(spec.adapters, start=1)}
        self.max_model_len = int(self._llm.model_config.max_model_len)
        self._ids = itertools.count()
        self.calls: list[RecordedCall] | None = None
        """The finished calls; None, the default, to record none."""

    async def generate(self, messages: Sequence[Message], sampling: Json, adapter: str | None = None) -> Generation:
        """Generate the assistant's turn after ``messages``; ``adapter`` is one of the engine's adapters.

        Raises ``PromptTooLongError`` if prompt and ``max_tokens`` do not fit, ``EngineDeadError`` if the engine died.
        """
        # Special tokens are kept: in some families they separate the reasoning from the answer.
        params = SamplingParams(
            **sampling,
            stop_token_ids=self._stop_ids,
            skip_special_tokens=False,
            spaces_between_special_tokens=False,
        )
        # In a thread, as the event loop has all calls' tokens to pass on meanwhile.
        prompt = await asyncio.to_thread(prompt_ids, self._tokenizer, messages, self._template)
        return await self._run(prompt, params, adapter, sampling)

    async def choose(self, messages: Sequence[Message], words: Sequence[str], adapter: str | None = None) -> Generation:
        """Constrain the assistant's answer to one of ``words`` and read their probabilities from its first token.

        A model that reasons answers without reasoning. The words must differ in their first token. Raises as
        ``generate`` does.
        """
        prompt = await asyncio.to_thread(choice_ids, self._tokenizer, messages, self._template)
        return await self._run(prompt, _choice_params(words), adapter, {}, words)

    async def repeat(self, call: RecordedCall) -> tuple[int, int]:
        """Repeat a call with as many tokens as it generated, and do nothing else: the ceiling of a benchmark.

        Returns how many tokens of its prompt were cached, and how many it generated.
        """
        tokens = {"max_tokens": call.generation.completion_tokens, "ignore_eos": True}
        params = _choice_params(call.words) if call.words else SamplingParams(**(call.sampling | tokens))
        params.output_kind = RequestOutputKind.FINAL_ONLY
        lora = self._adapters[call.adapter] if call.adapter else None
        final: Any = None
        async for output in self._llm.generate(
            TokensPrompt(prompt_token_ids=list(call.prompt)), params, str(next(self._ids)), lora_request=lora
        ):
            final = output
        return final.num_cached_tokens or 0, len(final.outputs[0].token_ids)

    async def reset_prefix_cache(self) -> None:
        """Forget all cached prompts; no call may be in the engine."""
        if not await self._llm.reset_prefix_cache():
            raise RuntimeError("the prefix cache was not reset: calls are in the engine")

    async def _run(
        self,
        prompt: list[int],
        params: SamplingParams,
        adapter: str | None,
        sampling: Json,
        words: Sequence[str] = (),
    ) -> Generation:
        arrived = time.monotonic()
        max_prompt = self.max_model_len - (params.max_tokens or 1)
        if len(prompt) > max_prompt:
            raise PromptTooLongError(f"{len(prompt)} prompt tokens, {max_prompt} fit")
        # Partial texts are not needed here; each would cost a message and a copy per token.
        params.output_kind = RequestOutputKind.FINAL_ONLY
        lora = self._adapters[adapter] if adapter else None
        final = None
        try:
            async for output in self._llm.generate(
                TokensPrompt(prompt_token_ids=prompt), params, str(next(self._ids)), lora_request=lora
            ):
                final = output
        except VllmEngineDeadError as error:
            raise EngineDeadError(str(error)) from error
        if final is None:
            raise RuntimeError("the engine returned nothing")
        completion, times = final.outputs[0], final.metrics
        probabilities = word_probabilities(completion.logprobs[0], words) if words and completion.logprobs else {}
        output = self._split(completion.text)
        if probabilities:
            output = Output(None, max(probabilities, key=probabilities.__getitem__))
        generation = Generation(
            text=output.answer,
            reasoning=output.reasoning,
            special_tokens=self._special_tokens(completion.token_ids, output.answer),
            finish_reason=completion.finish_reason or "none",
            prompt_tokens=len(prompt),
            cached_tokens=final.num_cached_tokens or 0,
            completion_tokens=len(completion.token_ids),
            probabilities=probabilities,
            # With disable_log_stats, vLLM reports no times.
            queue_seconds=max(0.0, times.scheduled_ts - times.queued_ts) if times else 0.0,
            first_token_seconds=times.first_token_latency if times else 0.0,
            seconds=time.monotonic() - arrived,
            prompt_hash=hashlib.sha256(array("I", prompt).tobytes()).hexdigest()[:16],
        )
        if self.calls is not None:
            self.calls.append(
                RecordedCall(
                    prompt=prompt,
                    sampling=sampling,
                    words=words,
                    adapter=adapter,
                    began=arrived,
                    generation=generation,
                )
            )
        return generation

    def _split(self, text: str) -> Output:
        """Separate reasoning and answer: with the vLLM parser that is named if it finds both, else by their markup."""
        if self._parser:
            with suppress(NotImplementedError):  # gpt-oss's
                reasoning, answer = self._parser.extract_reasoning(text, None)
                if reasoning and answer and answer.strip():
                    return Output(reasoning.strip(), answer.strip())
        return split_reasoning(text, self._open_block)

    def _special_tokens(self, token_ids: Sequence[int], answer: str) -> tuple[str, ...]:
        tokens = self._tokenizer.convert_ids_to_tokens(sorted(self._special.intersection(token_ids)))
        return tuple(token for token in tokens if token in answer)

    def shutdown(self) -> None:
        """Stop the engine's processes."""
        self._llm.shutdown()


def _choice_params(words: Sequence[str]) -> SamplingParams:
    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        logprobs=min(20, 4 * len(words)),
        structured_outputs=StructuredOutputsParams(choice=list(words)),
    )


def _reasoning_parser(name: str | None, tokenizer: Any, chat_template: Json) -> Any:
    parser = ReasoningParserManager.get_reasoning_parser(name) if name else None
    return parser(tokenizer, chat_template_kwargs=chat_template) if parser else None


def lora_rank(adapter: str) -> int:
    """Return the highest rank in a LoRA adapter of PEFT's format."""
    return max(adapter_ranks(json.loads(Path(adapter, "adapter_config.json").read_text(encoding="utf-8"))))


def lora_modules(adapters: Sequence[str]) -> list[str] | None:
    """Return the layers for which any of the adapters has weights, by the last part of their names; None for all.

    None is returned where vLLM may use another name for a layer, such as an expert's, which would then be left out
    silently. If the layers are not limited, vLLM computes adapters for all, with zeros where an adapter has no weights.
    """
    layers = set()
    for adapter in adapters:
        with safe_open(Path(adapter, "adapter_model.safetensors"), framework="numpy") as tensors:
            names = list(tensors.keys())
        if any(".experts." in name for name in names):
            return None
        layers |= {name.partition(".lora_")[0].rpartition(".")[2] for name in names}
    return sorted(layers) if layers <= _KNOWN_LAYERS else None


def _vllm_rank(rank: int) -> int:
    """Return the smallest rank that vLLM supports and that is at least ``rank``."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


def argument_names() -> set[str]:
    """Return the names of vLLM's engine arguments."""
    return {field.name for field in dataclasses.fields(AsyncEngineArgs)}


def reasoning_parsers() -> list[str]:
    """Return the names of vLLM's reasoning parsers."""
    names: list[str] = ReasoningParserManager.list_registered()
    return names


def word_probabilities(logprobs: dict[int, Any], words: Sequence[str]) -> dict[str, float]:
    """Return the probabilities of ``words`` from the log-probabilities of a first token that was constrained to them.

    A token counts for the word that it begins; a token that begins several words counts for none. Raises
    ``RuntimeError`` if no token counts.
    """
    mass = dict.fromkeys(words, 0.0)
    for entry in logprobs.values():
        matches = [
            word for word in words if entry.decoded_token and word.startswith(entry.decoded_token.strip() or "\0")
        ]
        if len(matches) == 1:
            mass[matches[0]] += math.exp(entry.logprob)
    total = sum(mass.values())
    if total <= 0.0:
        raise RuntimeError(f"no probability for any of {list(words)}: their first tokens cannot be told apart")
    return {word: value / total for word, value in mass.items()}
