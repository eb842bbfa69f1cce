"""Turn examples into token ids as the engines do: no special token is parsed from data.

The columns are those that TRL's trainers accept as tokenized: ``input_ids`` and ``completion_mask``; for DPO
``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.
"""

from typing import Any

from datasets import Dataset

from kailin_ray.config import TrainConfig
from kailin_ray.engines.chat_template import Arguments, prompt_ids, reply_ids
from kailin_ray.engines.token_ids import encode_pieces, plain_ids
from kailin_ray.schema import Row


def tokenize(rows: Dataset, config: TrainConfig, tokenizer: Any, num_proc: int | None) -> tuple[Dataset, int]:
    """Return the examples as ids, and how many were left out as longer than ``max_length``; plain texts all stay."""
    arguments = tuple(sorted(config.model.chat_template.items()))
    make = {"dpo": _pair, "pretrain": _text}.get(config.task, _tokenize_answer)
    kept = [name for name in ("pmid", "margin") if name in rows.column_names]
    tokenized = rows.map(
        make,
        fn_kwargs={"tokenizer": tokenizer, "arguments": arguments},
        remove_columns=[name for name in rows.column_names if name not in kept],
        num_proc=num_proc,
    )
    if config.task == "pretrain":
        return tokenized, 0
    max_length = config.optimization.max_length
    fitting = tokenized.filter(lambda row: _length(row) <= max_length, num_proc=num_proc)
    return fitting, len(tokenized) - len(fitting)


def _length(row: Row) -> int:
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _text(row: Row, tokenizer: Any, arguments: Arguments) -> Row:
    return {"input_ids": [*_opening(tokenizer), *plain_ids(tokenizer, row["text"]), tokenizer.eos_token_id]}


def _tokenize_answer(row: Row, tokenizer: Any, arguments: Arguments) -> Row:
    prompt = _prompt(row["prompt"], tokenizer, arguments)
    reply = _reply(row["prompt"], row["completion"], tokenizer, arguments)
    return {"input_ids": prompt + reply, "completion_mask": [0] * len(prompt) + [1] * len(reply)}


def _pair(row: Row, tokenizer: Any, arguments: Arguments) -> Row:
    sides = {f"{side}_ids": _reply(row["prompt"], row[side], tokenizer, arguments) for side in ("chosen", "rejected")}
    return {"prompt_ids": _prompt(row["prompt"], tokenizer, arguments), **sides}


def _prompt(prompt: Any, tokenizer: Any, arguments: Arguments) -> list[int]:
    if isinstance(prompt, str):
        return [*_opening(tokenizer), *plain_ids(tokenizer, prompt)]
    return prompt_ids(tokenizer, prompt, arguments)


def _reply(prompt: Any, reply: Any, tokenizer: Any, arguments: Arguments) -> list[int]:
    if isinstance(reply, str):
        return [*encode_pieces(tokenizer, [(reply, False)], is_start=False), tokenizer.eos_token_id]
    return reply_ids(tokenizer, prompt, reply[0]["content"], arguments)


def _opening(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer itself puts before a text, such as Llama's BOS."""
    with_opening = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    return list(with_opening[: with_opening.index(bare[0])])
