"""Convert messages and texts to token ids. Engines and training share this code, so both see the same prompts.

The chat template is tokenized with special tokens, and message text without them, so text of an abstract can never
become a special token.
"""

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

Message = dict[str, str]
Arguments = tuple[tuple[str, Any], ...]
"""Arguments of a chat template, sorted by name."""

# A private-use character without meaning in any tokenizer, template or abstract. It surrounds a message's number.
_MARK = "\ue0ff"


def prompt_ids(tokenizer: Any, messages: Sequence[Message], template_arguments: Arguments = ()) -> list[int]:
    """Return the token ids of the prompt. Special tokens come only from the chat template, never from a message.

    If the template has no place for a system message (Mistral's), its text is put before the first user message.
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
    """Return the token ids of a text, in which nothing is read as markup."""
    # Lone surrogates cannot be encoded, and they have no meaning in an abstract.
    content = text.encode("utf-8", "replace").decode("utf-8")
    return (_kept_plain_ids if len(content) <= _LONGEST_KEPT else _plain_ids)(tokenizer, content)


def reply_ids(tokenizer: Any, text: str, template_arguments: Arguments = ()) -> list[int]:
    """Return the token ids of the assistant's turn after ``prompt_ids``, with the token at which an engine stops."""
    return [*plain_ids(tokenizer, text.strip()), *_turn_end(tokenizer, template_arguments)]


@lru_cache(maxsize=64)
def _turn_end(tokenizer: Any, arguments: Arguments) -> tuple[int, ...]:
    """Return the token ids with which the template closes an assistant's turn, up to the first special token."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": f"{_MARK}b{_MARK}"}]
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, **dict(arguments))
    ids = tokenizer.encode(rendered.rpartition(_MARK)[2], add_special_tokens=False)
    special = set(tokenizer.all_special_ids)
    first = next((index for index, token in enumerate(ids) if token in special), None)
    return (tokenizer.eos_token_id,) if first is None else tuple(ids[: first + 1])


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    markup = _markup(tokenizer)
    # Cut inside each markup token, so that none stays whole.
    cuts = [0, *(match.end() for match in markup.finditer(text)), len(text)] if markup else [0, len(text)]
    pieces = (text[start:end] for start, end in itertools.pairwise(cuts))
    return [i for piece in pieces for i in tokenizer.encode(piece, add_special_tokens=False, split_special_tokens=True)]


# Every call contains the messages of the preamble. Every call about a row contains its abstract.
_kept_plain_ids = lru_cache(maxsize=4096)(_plain_ids)
_LONGEST_KEPT = 50_000
"""Characters. The ids of longer texts are not cached: there are few, and they would fill the memory."""


@lru_cache(maxsize=64)
def _markup(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern of added tokens that are not marked as special, so the tokenizer would parse them from a text.

    An example is Qwen's ``<think>``. None if there are no such tokens.
    """
    # Not all added tokens: in some models runs of spaces are added tokens too, and they are no markup.
    markup = [token for token in tokenizer.get_added_vocab() if token.startswith(("<", "[")) and len(token) > 2]
    # Only the first character is consumed, so that a token that begins inside another token is also found.
    rests = {first: [re.escape(token[1:]) for token in markup if token[0] == first] for first in "<["}
    patterns = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items() if rest]
    return re.compile("|".join(patterns)) if patterns else None


@lru_cache(maxsize=64)
def _takes_system(tokenizer: Any, arguments: Arguments) -> bool:
    try:
        _template_pieces(tokenizer, ("system", "user"), arguments)
    except (TemplateError, ValueError):  # the template raises, or leaves the message out
        return False
    return True


@lru_cache(maxsize=64)
def _template_pieces(tokenizer: Any, roles: tuple[str, ...], arguments: Arguments) -> tuple[str | int, ...]:
    """Return the rendered chat template, cut at the messages: template text as str, a message as its number."""
    marked = [{"role": role, "content": f"{_MARK}{i}{_MARK}"} for i, role in enumerate(roles)]
    pieces = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True, **dict(arguments)).split(
        _MARK
    )
    if pieces[1::2] != [str(i) for i in range(len(roles))]:
        raise ValueError(f"the model's chat template does not show each message exactly once: roles {list(roles)}")
    return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces) if piece)
