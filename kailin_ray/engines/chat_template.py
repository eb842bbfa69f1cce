"""Messages and texts to token ids, for the engines and for training alike: what a model learns on is what it is asked.

The chat template is tokenized with its special tokens, what stands in the messages without, so text of an abstract can
never become a special token.
"""

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

Message = dict[str, str]
Arguments = tuple[tuple[str, Any], ...]
"""Of a chat template, sorted by name."""

# A private-use character that no tokenizer, template or abstract gives a meaning to, around a message's number.
_MARK = "\ue0ff"


def prompt_ids(tokenizer: Any, messages: Sequence[Message], template_arguments: Arguments = ()) -> list[int]:
    """Token ids of the prompt. Special tokens come from the chat template alone, never from a message.

    Where the template has no place for a system message (Mistral's), its text goes before the first user's.
    """
    if messages[0]["role"] == "system" and not _takes_system(tokenizer, template_arguments):
        system, user, *rest = messages
        messages = [user | {"content": f"{system['content']}\n\n{user['content']}"}, *rest]
    ids: list[int] = []
    for piece in _template_pieces(tokenizer, tuple(message["role"] for message in messages), template_arguments):
        if isinstance(piece, str):
            ids += tokenizer.encode(piece, add_special_tokens=False)
        else:
            ids += plain_ids(tokenizer, messages[piece]["content"].strip())
    return ids


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text in which nothing is markup."""
    # Lone surrogates cannot be encoded; they mean nothing in an abstract.
    content = text.encode("utf-8", "replace").decode("utf-8")
    return (_kept_plain_ids if len(content) <= _LONGEST_KEPT else _plain_ids)(tokenizer, content)


def reply_ids(tokenizer: Any, text: str, template_arguments: Arguments = ()) -> list[int]:
    """Token ids of the assistant's turn that follows ``prompt_ids``, with the token at which an engine stops."""
    return [*plain_ids(tokenizer, text.strip()), *_turn_end(tokenizer, template_arguments)]


@lru_cache(maxsize=64)
def _turn_end(tokenizer: Any, arguments: Arguments) -> tuple[int, ...]:
    """What the template closes an assistant's turn with, as far as its first special token."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"{_MARK}b{_MARK}"}]
    shown = tokenizer.apply_chat_template(turns, tokenize=False, **dict(arguments))
    ids = tokenizer.encode(shown.rpartition(_MARK)[2], add_special_tokens=False)
    special = set(tokenizer.all_special_ids)
    first = next((place for place, token in enumerate(ids) if token in special), None)
    return (tokenizer.eos_token_id,) if first is None else tuple(ids[: first + 1])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    markup = _markup(tokenizer)
    # Cut inside each token of markup, so that none is left whole.
    cuts = [0, *(found.end() for found in markup.finditer(text)), len(text)] if markup else [0, len(text)]
    pieces = (text[start:end] for start, end in itertools.pairwise(cuts))
    return [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)]


# The preamble's messages come with every call, an abstract with every call about its row.
_kept_plain_ids = lru_cache(maxsize=4096)(_plain_ids)
_LONGEST_KEPT = 50_000
"""Characters of a text whose ids are kept; the few that are longer would fill the memory."""


@lru_cache(maxsize=64)
def _markup(tokenizer: Any) -> re.Pattern[str] | None:
    """Added tokens that tokenizers do not call special, and so would parse from a text: Qwen's ``<think>``."""
    # Not all that was added: runs of spaces are also added tokens of some models, and no markup.
    markup = [token for token in tokenizer.get_added_vocab() if token.startswith(("<", "[")) and len(token) > 2]
    # The first character alone is matched, so that a token that begins inside another is found as well.
    rests = {first: [re.escape(token[1:]) for token in markup if token[0] == first] for first in "<["}
    found = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items() if rest]
    return re.compile("|".join(found)) if found else None


@lru_cache(maxsize=64)
def _takes_system(tokenizer: Any, arguments: Arguments) -> bool:
    try:
        _template_pieces(tokenizer, ("system", "user"), arguments)
    except (TemplateError, ValueError):  # it raises, or leaves the message out
        return False
    return True


@lru_cache(maxsize=64)
def _template_pieces(tokenizer: Any, roles: tuple[str, ...], arguments: Arguments) -> tuple[str | int, ...]:
    """The rendered chat template, cut at the messages: template text as str, a message's place as its number."""
    marked = [{"role": role, "content": f"{_MARK}{i}{_MARK}"} for i, role in enumerate(roles)]
    parts = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True, **dict(arguments)).split(
        _MARK
    )
    if parts[1::2] != [str(i) for i in range(len(roles))]:
        raise ValueError(f"the model's chat template does not show each of the messages once: roles {list(roles)}")
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts) if part)
