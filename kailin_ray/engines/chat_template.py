"""Convert messages to token ids. Engines and training share this code, so both see the same prompts.

The ids are those of the model's own chat template (``apply_chat_template``), with one difference: text of an abstract
can never become a special token (``token_ids.py``).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from kailin_ray.engines.reasoning import find_open_block
from kailin_ray.engines.token_ids import Piece, encode_pieces, prepends_blank, special_ids, split_markup
from kailin_ray.errors import ConfigError

Message = dict[str, str]
Arguments = tuple[tuple[str, Any], ...]
"""Arguments of a chat template, sorted by name."""

_UNUSABLE = (TemplateError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError)
"""What rendering a template can raise: a template is a program."""

# A private-use character without meaning in any tokenizer, template or abstract. It surrounds a message's number.
_MARK = "\ue0ff"


def prompt_ids(tokenizer: Any, messages: Sequence[Message], template_arguments: Arguments = ()) -> list[int]:
    """Return the token ids of the prompt. Special tokens come only from the chat template, never from a message.

    If the template has no place for a system message (Mistral's), or another place than first, its text is put before
    the first user message.
    """
    messages = _fit_system(tokenizer, messages, template_arguments)
    roles = tuple(message["role"] for message in messages)
    return encode_pieces(tokenizer, _fill(_template_pieces(tokenizer, roles, template_arguments, True), messages))


def choice_ids(tokenizer: Any, messages: Sequence[Message], template_arguments: Arguments = ()) -> list[int]:
    """Return the token ids of ``prompt_ids``, continued to where the answer itself begins, after any reasoning.

    The first token after them is the first token of the answer, whether or not the model reasons.
    """
    return encode_pieces(tokenizer, _answer_pieces(tokenizer, messages, template_arguments)[1])


def choice_token(tokenizer: Any, messages: Sequence[Message], word: str, template_arguments: Arguments = ()) -> int:
    """Return the id of the first token of the answer ``word`` after ``choice_ids``."""
    _, with_opening = _answer_pieces(tokenizer, messages, template_arguments)
    choice, whole = (encode_pieces(tokenizer, [*with_opening, *end]) for end in ((), [(word, False)]))
    # A token can span the end of the template's text, such as two line breaks.
    return whole[len(choice)] if whole[: len(choice)] == choice else encode_pieces(tokenizer, [(word, False)], False)[0]


def reply_ids(tokenizer: Any, messages: Sequence[Message], text: str, template_arguments: Arguments = ()) -> list[int]:
    """Return the token ids of the assistant's turn after ``prompt_ids``, with the token at which an engine stops."""
    of_prompt, with_opening = _answer_pieces(tokenizer, messages, template_arguments)
    end, end_id = _turn_end(tokenizer, template_arguments)
    reply = [(text.strip(), False), (end, True)]
    prompt, whole = encode_pieces(tokenizer, of_prompt), encode_pieces(tokenizer, [*with_opening, *reply])
    if whole[: len(prompt)] == prompt:
        return [*whole[len(prompt) :], end_id]
    # A word can span the end of the prompt.
    opening = with_opening[len(of_prompt) :]
    if prepends_blank(tokenizer):
        opening = [(piece.lstrip(), is_template) for piece, is_template in opening]
    return [*encode_pieces(tokenizer, [*opening, *reply], is_start=False), end_id]


def _answer_pieces(
    tokenizer: Any, messages: Sequence[Message], arguments: Arguments
) -> tuple[list[Piece], list[Piece]]:
    """Return the pieces of the prompt, and the same with the template text that stands before an answer.

    That text is what the template writes before the content of an assistant's message, such as an empty ``<think>``
    block or gpt-oss's channel.
    """
    messages = _fit_system(tokenizer, messages, arguments)
    roles = tuple(message["role"] for message in messages)
    of_prompt = _fill(_template_pieces(tokenizer, roles, arguments, True), messages)
    pieces = _template_pieces(tokenizer, (*roles, "assistant"), arguments, False)
    before = _fill(pieces[: pieces.index(len(roles))], messages)
    (last, _), (text, is_template) = of_prompt[-1], before[-1]
    opening = ""
    if of_prompt[:-1] == before[:-1] and is_template and text.startswith(last):
        opening = text.removeprefix(last)
    if of_prompt[-1][1] and (closing := find_open_block(last + opening)):
        opening += f"\n{closing}\n\n"
    return of_prompt, [*of_prompt, (opening, True)] if opening else of_prompt


def find_opened_block(tokenizer: Any, template_arguments: Arguments = ()) -> str | None:
    """Return the markup that ends the block of reasoning which every prompt opens (DeepSeek's); None if none."""
    last = _template_pieces(tokenizer, ("user",), template_arguments, True)[-1]
    return find_open_block(last) if isinstance(last, str) else None


def stop_id(tokenizer: Any, template_arguments: Arguments = ()) -> int:
    """Return the id of the token with which the template closes an assistant's turn."""
    return _turn_end(tokenizer, template_arguments)[1]


def check_template(key: str, tokenizer: Any, conversations: Iterable[Sequence[Message]], arguments: Arguments) -> None:
    """Raise ``ConfigError`` for a tokenizer that cannot render the given conversations; ``key`` names the model."""
    if not tokenizer.chat_template:
        raise ConfigError(f"{key}: its tokenizer has no chat template; an instruct model is needed")
    for messages in conversations:
        try:
            prompt_ids(tokenizer, messages, arguments)
        except _UNUSABLE as error:
            raise ConfigError(f"{key}: its chat template cannot be used: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=64)
def _turn_end(tokenizer: Any, arguments: Arguments) -> tuple[str, int]:
    """Return the text between an assistant's message and the first special token after it, and that token's id."""
    pieces = _template_pieces(tokenizer, ("user", "assistant"), arguments, False)
    closing = pieces[-1] if isinstance(pieces[-1], str) else ""
    special = special_ids(tokenizer)
    text = ""
    for part in split_markup(tokenizer, closing):
        if part in special:
            return text, int(part)
        text += part if isinstance(part, str) else tokenizer.convert_ids_to_tokens(part)
    return "", int(tokenizer.eos_token_id)


def _fit_system(tokenizer: Any, messages: Sequence[Message], arguments: Arguments) -> Sequence[Message]:
    """Return the messages, with the system text in the first user message if the template does not render it first."""
    roles = tuple(message["role"] for message in messages)
    if roles[0] != "system" or _renders(tokenizer, roles, arguments):
        return messages
    system, user, *rest = messages
    return [user | {"content": f"{system['content']}\n\n{user['content']}"}, *rest]


@lru_cache(maxsize=64)
def _renders(tokenizer: Any, roles: tuple[str, ...], arguments: Arguments) -> bool:
    try:
        _template_pieces(tokenizer, roles, arguments, True)
    except _UNUSABLE:  # the template raises, or does not render the messages in order
        return False
    return True


@lru_cache(maxsize=64)
def _template_pieces(
    tokenizer: Any, roles: tuple[str, ...], arguments: Arguments, is_prompt: bool
) -> tuple[str | int, ...]:
    """Return the rendered chat template, cut at the messages: template text as str, a message as its number.

    ``is_prompt``: with the beginning of the assistant's turn. Raises ``ValueError`` for a template that does not render
    each message once and in order.
    """
    marks = [f"{_MARK}{i}{_MARK}" for i in range(len(roles))]
    as_text = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    as_parts = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in as_text]
    shown = ""
    for turns in (as_text, as_parts):  # templates of models that also see images may take only parts
        try:
            rendered = tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=is_prompt, **dict(arguments)
            )
        except _UNUSABLE:
            if turns is as_parts and not shown:
                raise
            continue
        shown = shown or rendered.replace(_MARK, "")[:300]
        pieces = rendered.split(_MARK)
        if pieces[1::2] == [str(i) for i in range(len(roles))]:
            return tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces) if piece)
    raise ValueError(f"it does not render each message once and in order: roles {list(roles)} become {shown!r}")


def _fill(pieces: Iterable[str | int], messages: Sequence[Message]) -> list[Piece]:
    return [
        (piece, True) if isinstance(piece, str) else (messages[piece]["content"].strip(), False) for piece in pieces
    ]
