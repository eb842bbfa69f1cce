"""Load a model's tokenizer, for engines, training and the checks before them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import AutoTokenizer

from kailin_ray.engines.chat_template import Message, check_template
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.models import model_json
from kailin_ray.errors import ConfigError
from kailin_ray.schema import Json

_SWITCHES = (
    ("enable_thinking", False),
    ("thinking", False),
    ("enable_reasoning", False),
    ("thinking_mode", "off"),
    ("reasoning_effort", "low", "none", "minimal"),
)
"""Arguments with which chat templates switch reasoning, and the values that switch it off or keep it short."""


def load_tokenizer(path: str, revision: str | None, engine_args: Json | None = None) -> Any:
    """Load the tokenizer of a model, or the one that vLLM's ``engine_args`` name.

    A chat template that stands only in ``chat_template.json``, as models that also see images have it, is used too.
    """
    args = engine_args or {}
    if args.get("tokenizer"):
        path, revision = args["tokenizer"], args.get("tokenizer_revision")
    tokenizer = AutoTokenizer.from_pretrained(
        path, revision=revision, trust_remote_code=bool(args.get("trust_remote_code", False))
    )
    if not tokenizer.chat_template:
        found = model_json(path, revision, "chat_template.json")
        if isinstance(found, dict):
            tokenizer.chat_template = found.get("chat_template")
    return tokenizer


def describe_reasoning(engine: EngineSpec) -> str | None:
    """Return what to do about a model that was seen to reason; None if the configuration asks for reasoning."""
    asked = engine.chat_template
    if engine.args.get("reasoning_parser") or any(
        asked.get(switch) not in (None, *offs) for switch, *offs in _SWITCHES
    ):
        return None
    template = str(load_tokenizer(engine.path, engine.revision, engine.args).chat_template)
    told = [f"{switch}={str(asked[switch]).lower()}" for switch, *_ in _SWITCHES if switch in asked]
    known = [(switch, off) for switch, off, *_ in _SWITCHES if re.search(rf"\b{switch}\b", template)]
    text = f"{engine.path} reasons before it answers"
    if told:
        text += f", although model.chat_template has {', '.join(told)}"
    if switches := [f"model.chat_template.{switch}={str(off).lower()}" for switch, off in known if switch not in asked]:
        return f"{text}. The reasoning is kept apart, but it takes most of the tokens; to turn it off: {switches[0]}"
    advice = "choose a model that does not, or give it more tokens: model.<agent>.sampling.max_tokens"
    return f"{text}. Its chat template has no {'other ' if told and known else ''}switch for that; {advice}"


def check_tokenizer(key: str, engine: EngineSpec, conversations: Iterable[Sequence[Message]]) -> None:
    """Raise ``ConfigError`` for an engine's model whose tokenizer cannot render ``conversations``; ``key`` names it."""
    try:
        tokenizer = load_tokenizer(engine.path, engine.revision, engine.args)
    except Exception as error:  # whatever a broken file makes transformers raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"{key}: {engine.path}: its tokenizer cannot be loaded: {text}") from error
    check_template(f"{key}: {engine.path}", tokenizer, conversations, tuple(sorted(engine.chat_template.items())))
