"""Encode a rendered chat template to token ids, without parsing markup in the text of messages.

The ids equal those of the tokenizer itself for the whole rendered text. A tokenizer first splits a text at its special
tokens, and then encodes each run of text between them. The same is done here, but only special tokens of the template
split the text. A run can span template text and message text, so that a word, or the blank that some tokenizers put
before a run, is encoded as the tokenizer would encode it.
"""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

Piece = tuple[str, bool]
"""A text, and whether the template wrote it."""

_LONGEST_KEPT = 50_000
"""Characters. The ids of longer runs are not cached: there are few, and they would fill the memory."""


def encode_pieces(tokenizer: Any, pieces: Sequence[Piece], is_start: bool = True) -> list[int]:
    """Return the token ids of a rendered template. Special tokens come only from template text.

    ``is_start``: nothing stands before it.
    """
    ids: list[int] = []
    run = ""
    for text, is_template in pieces:
        for part in split_markup(tokenizer, text) if is_template else (_encodable(text),):
            if isinstance(part, str):
                run += part
            else:
                ids += [*_encode_run(tokenizer, run, is_start and not ids), part]
                run = ""
    return ids + list(_encode_run(tokenizer, run, is_start and not ids))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a whole text, in which nothing is parsed as markup."""
    return encode_pieces(tokenizer, [(text, False)])


@lru_cache(maxsize=1024)
def split_markup(tokenizer: Any, text: str) -> tuple[str | int, ...]:
    """Split template text at its special tokens: text as str, a special token as its id."""
    added = tokenizer.added_tokens_decoder.items()
    contents: dict[int, str] = {i: token.content for i, token in added if _is_markup(token)}
    if not _has_backend(tokenizer):
        pattern = "|".join(re.escape(content) for content in sorted(contents.values(), key=len, reverse=True))
        ids = {content: i for i, content in contents.items()}
        parts: list[str] = re.split(f"({pattern})", text) if pattern else [text]
        return tuple(ids.get(part, part) for part in parts if part)
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    pieces: list[str | int] = []
    end = 0
    for i, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True):
        # Some tokens swallow the blanks around them. An unknown character has the id of a special token, too.
        if i in contents and text[start:stop].strip() == contents[i].strip():
            pieces += [text[end:start], i] if start > end else [i]
            end = stop
    return (*pieces, text[end:]) if end < len(text) else tuple(pieces)


def prepends_blank(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a blank before every run of text."""
    first: str = tokenizer.convert_ids_to_tokens(list(_encode_run(tokenizer, "a", False)))[0]
    return first.startswith(("▁", "Ġ"))


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all special tokens, including those that only the tokenizer's file marks as special."""
    marked = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *marked))


def _is_markup(token: Any) -> bool:
    """Whether an added token is markup, such as ``<|im_end|>``, or Qwen's ``<think>``, which is not marked as special.

    Other added tokens, such as runs of blanks, are ordinary text.
    """
    return token.special or (token.content.startswith(("<", "[")) and len(token.content) > 2)


def _encodable(text: str) -> str:
    # Lone surrogates cannot be encoded, and they have no meaning in an abstract.
    return text.encode("utf-8", "replace").decode("utf-8")


def _encode_run(tokenizer: Any, text: str, is_first: bool) -> tuple[int, ...]:
    if not text:
        return ()
    # Every call contains the messages of the preamble. Every call about a row contains its abstract.
    encode = _encode_kept if len(text) <= _LONGEST_KEPT else _encode
    return encode(tokenizer, text, is_first)


def _encode(tokenizer: Any, text: str, is_first: bool) -> tuple[int, ...]:
    if _has_backend(tokenizer):
        ids = _encode_plain(tokenizer, text, is_first)
        if _markup_ids(tokenizer).isdisjoint(ids):
            return ids
    # A vocabulary may contain the markup as ordinary tokens. The text is cut inside each, so that none stays whole.
    markup = _markup(tokenizer)
    cuts = [0, *(match.end() for match in markup.finditer(text)), len(text)] if markup else [0, len(text)]
    pieces = (text[start:end] for start, end in itertools.pairwise(cuts))
    return tuple(i for piece in pieces for i in _encode_piece(tokenizer, piece))


_encode_kept = lru_cache(maxsize=4096)(_encode)


def _encode_piece(tokenizer: Any, text: str) -> Sequence[int]:
    if _has_backend(tokenizer):
        return _encode_plain(tokenizer, text, False)
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _encode_plain(tokenizer: Any, text: str, is_first: bool) -> tuple[int, ...]:
    plain = _plain_tokenizer(tokenizer, is_first)
    # Unlike ``encode``, it lets other threads of this process run meanwhile.
    (encoding,) = plain.tokenizer.encode_batch([text], add_special_tokens=False)
    ids = encoding.ids
    return tuple(plain.renumbered.get(i, i) for i in ids) if plain.renumbered else tuple(ids)


def _has_backend(tokenizer: Any) -> bool:
    """Whether the tokenizer is of Hugging Face's tokenizers library; a few are written in Python."""
    return isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer)


@dataclass(frozen=True)
class _Plain:
    """A tokenizer without its markup tokens."""

    tokenizer: Tokenizer
    renumbered: dict[int, int]
    """The right id of each added token that is left: without the others, it gets another one."""


@lru_cache(maxsize=64)
def _plain_tokenizer(tokenizer: Any, is_first: bool) -> _Plain:
    """Return the tokenizer for the first run of a prompt, or for any other run."""
    markup = {token.content for token in tokenizer.added_tokens_decoder.values() if _is_markup(token)}
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] not in markup]
    settings |= {"post_processor": None, "truncation": None, "padding": None}
    if not is_first:
        _never_prepend(settings["pre_tokenizer"])
    plain = Tokenizer.from_str(json.dumps(settings))
    numbers = {plain.token_to_id(token["content"]): token["id"] for token in settings["added_tokens"]}
    return _Plain(plain, {new: old for new, old in numbers.items() if new is not None})


def _never_prepend(pre_tokenizer: Any) -> None:
    """Switch off a blank that is put only before a text's first run."""
    if not isinstance(pre_tokenizer, dict):
        return
    if pre_tokenizer.get("type") == "Metaspace" and pre_tokenizer.get("prepend_scheme") == "first":
        pre_tokenizer["prepend_scheme"] = "never"
    for part in pre_tokenizer.get("pretokenizers", ()):
        _never_prepend(part)


@lru_cache(maxsize=64)
def _markup_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids that no text may have. An unknown character is allowed to be unknown."""
    ids = (i for i, token in tokenizer.added_tokens_decoder.items() if _is_markup(token))
    return frozenset(ids) - {tokenizer.unk_token_id}


@lru_cache(maxsize=64)
def _markup(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern of the first character of each markup token; None if there are no such tokens."""
    contents = [token.content for token in tokenizer.added_tokens_decoder.values() if _is_markup(token)]
    # Only the first character is consumed, so that a token that begins inside another token is also found.
    rests: dict[str, list[str]] = {}
    for content in contents:
        if len(content) > 1:
            rests.setdefault(content[0], []).append(re.escape(content[1:]))
    patterns = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(patterns)) if patterns else None
