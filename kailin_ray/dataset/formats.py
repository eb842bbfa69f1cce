"""The formats that ``publish`` writes: which configs each one has, and how their rows look in it.

``parquet`` and ``jsonl`` have every config, in TRL's columns. ``sharegpt`` and ``alpaca`` have the configs that train a
model, with the field names that LLaMA-Factory (data/README.md) and axolotl (docs/dataset-formats) document::

    sharegpt   {"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}
    alpaca     {"instruction": "Question: ...", "input": "Title: ...", "output": "..."}
"""

from collections.abc import Mapping

import pyarrow as pa

from kailin_ray.dataset.rows import SCHEMAS, SFT_TEXT, Record
from kailin_ray.schema import Json

_TURN = pa.struct([("from", pa.string()), ("value", pa.string())])
_SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
_CONVERSATION = [("conversations", pa.list_(_TURN))]
_INSTRUCTION = [("instruction", pa.string()), ("input", pa.string())]
_PMID = ("pmid", pa.int64())

SHAREGPT = {
    "sft": pa.schema([*_CONVERSATION, _PMID]),
    "preference": pa.schema([*_CONVERSATION, ("chosen", _TURN), ("rejected", _TURN), ("margin", pa.float64()), _PMID]),
    "judge": pa.schema([*_CONVERSATION, ("margin", pa.float64()), _PMID]),
}
ALPACA = {
    "sft": pa.schema([*_INSTRUCTION, ("output", pa.string()), _PMID]),
    "preference": pa.schema(
        [
            *_INSTRUCTION,
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("system", pa.string()),
            ("margin", pa.float64()),
            _PMID,
        ]
    ),
    "judge": pa.schema(
        [*_INSTRUCTION, ("output", pa.string()), ("system", pa.string()), ("margin", pa.float64()), _PMID]
    ),
    "pretrain": SCHEMAS["pretrain"],
}
QUESTION = "\n\nQuestion: "
"""What the passages of a prompt of ``sft`` end before."""


def schemas_of(name: str, sft: str) -> Mapping[str, pa.Schema]:
    """Return the columns of each config in the format ``name``, with ``sft`` as messages or text."""
    if name in ("sharegpt", "alpaca"):
        return SHAREGPT if name == "sharegpt" else ALPACA
    return SCHEMAS | ({"sft": SFT_TEXT} if sft == "text" else {})


def convert_row(name: str, config: str, row: Record) -> Record:
    """Return a row of a config (as ``rows`` makes it, ``sft`` as messages) in the format ``name``."""
    if name == "sharegpt":
        return _to_sharegpt(row)
    if name == "alpaca" and config != "pretrain":
        return _to_alpaca(config, row)
    return row


def _to_sharegpt(row: Record) -> Record:
    converted = {key: row[key] for key in ("margin", "pmid") if key in row}
    sides = {side: _turn(row[side][0]) for side in ("chosen", "rejected") if side in row}
    messages = [*row["prompt"], *row.get("completion", [])]
    return converted | sides | {"conversations": [_turn(message) for message in messages]}


def _turn(message: Record) -> Record:
    return {"from": _SPEAKERS[message["role"]], "value": message["content"]}


def _to_alpaca(config: str, row: Record) -> Record:
    """Return instruction and input; of ``sft`` the input has the passages, of the other configs it is empty."""
    converted: Record = {key: row[key] for key in ("margin", "pmid") if key in row}
    of_role = {message["role"]: message["content"] for message in row["prompt"]}
    passages, instruction = "", of_role["user"]
    if config == "sft":
        passages, _, question = instruction.rpartition(QUESTION)
        instruction = f"{QUESTION.strip()} {question}"
    else:
        converted["system"] = of_role["system"]
    converted |= {"instruction": instruction, "input": passages}
    sides = {"chosen": "chosen", "rejected": "rejected", "completion": "output"}
    return converted | {field: row[side][0]["content"] for side, field in sides.items() if side in row}


def describe_for_llama_factory(name: str, files: Mapping[tuple[str, str], str]) -> Json:
    """Return the content of LLaMA-Factory's ``dataset_info.json`` for ``files`` (path by config and split)."""
    return {
        f"{config}_{split}": {"file_name": path, **_describe_file(name, config)}
        for (config, split), path in files.items()
    }


def _describe_file(name: str, config: str) -> Json:
    is_ranking = config == "preference"
    ranking = {"ranking": True} if is_ranking else {}
    sides = {"chosen": "chosen", "rejected": "rejected"} if is_ranking else {}
    if name == "sharegpt":
        return {"formatting": "sharegpt", **ranking, "columns": {"messages": "conversations", **sides}}
    if config == "pretrain":
        return {"columns": {"prompt": "text"}}
    system = {} if config == "sft" else {"system": "system"}
    response = sides or {"response": "output"}
    return {**ranking, "columns": {"prompt": "instruction", "query": "input", **response, **system}}
