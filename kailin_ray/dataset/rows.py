"""Convert a record to the rows of each config of the dataset."""

from collections.abc import Callable

import pyarrow as pa

from kailin_ray.agents import evaluation, prompts
from kailin_ray.agents.prompts import TASKS, ask
from kailin_ray.schema import REASONING, Row

Record = Row
"""A row with the columns of ``schema.RECORDS``, or of one of the ``SCHEMAS`` below."""

_CALL = ("agent", "prompt_hash", "finish_reason", "output")
_SCORES = ("mesh_score", "judge_probability")
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SCHEMAS = {
    "triples": pa.schema(
        [
            ("pmid", pa.int64()),
            ("title", pa.string()),
            ("abstract", pa.string()),
            ("question", pa.string()),
            ("contexts", pa.list_(pa.string())),
            ("context_pmids", pa.list_(pa.int64())),
            ("answer", pa.string()),
            ("reasoning", pa.string()),
            ("decision", pa.string()),
            ("agent", pa.string()),
            ("preferred_by", pa.string()),
            ("mesh_score", pa.float64()),
            ("margin", pa.float64()),
            ("mesh", pa.list_(pa.string())),
            ("year", pa.int16()),
        ]
    ),
    "sft": pa.schema([("prompt", pa.string()), ("completion", pa.string())]),
    "preference": pa.schema(
        [
            ("prompt", _MESSAGES),
            ("chosen", _MESSAGES),
            ("rejected", _MESSAGES),
            ("margin", pa.float64()),
            ("preferred_by", pa.string()),
            *((f"{score}_{side}", pa.float64()) for score in _SCORES for side in ("chosen", "rejected")),
            ("pmid", pa.int64()),
        ]
    ),
    "judge": pa.schema(
        [("prompt", _MESSAGES), ("completion", _MESSAGES), ("margin", pa.float64()), ("pmid", pa.int64())]
    ),
    "pretrain": pa.schema([("text", pa.string())]),
    "rejected": pa.schema(
        [
            ("pmid", pa.int64()),
            ("title", pa.string()),
            ("status", pa.string()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("questions", pa.list_(pa.string())),
            ("answer", pa.string()),
            ("calls", pa.list_(pa.struct([(name, pa.string()) for name in _CALL]))),
            ("reasoning", pa.list_(REASONING)),
        ]
    ),
    "removed": pa.schema([("pmid", pa.int64()), ("reason", pa.string()), ("detail", pa.string())]),
}


def triple(record: Record) -> Record:
    """Return question, contexts and answer of an accepted record, with their sources."""
    chosen = record["candidates"][record["preferred"]]
    num_shown = len(record["contexts_text"])
    return {
        **{name: record[name] for name in ("pmid", "title", "abstract", "answer", "preferred_by", "margin", "year")},
        "question": chosen["question"],
        "contexts": record["contexts_text"],
        "reasoning": next((call["text"] for call in record.get("reasoning") or [] if call["agent"] == "answer"), None),
        "context_pmids": [context["pmid"] for context in chosen["contexts"]][:num_shown],
        "decision": record["decision"]["word"] if record["decision"] else None,
        "agent": chosen["agent"],
        "mesh_score": chosen["mesh_score"],
        "mesh": [heading["name"] for heading in record["mesh"]],
    }


def sft(record: Record) -> Record:
    """Return prompt and completion as plain text. The prompt has the abstract, because the answer agent saw it too."""
    row = triple(record)
    evidence = "\n".join(f"[{n}] {text}" for n, text in enumerate(row["contexts"], start=1))
    prompt = f"{prompts.abstract_text(record)}\n\n{evidence}\n\nQuestion: {row['question']}\nAnswer:"
    return {"prompt": prompt, "completion": f" {row['answer']}"}


def preference(record: Record) -> Record | None:
    """Return the preferred and the other question for the same abstract; None if no candidates were compared."""
    if record["preferred_by"] == "only" or record["margin"] is None:
        return None
    sides = {
        "chosen": record["candidates"][record["preferred"]],
        "rejected": record["candidates"][1 - record["preferred"]],
    }
    return {
        "prompt": prompts.prompt(record, TASKS["any"], examples=False),
        **{side: [ask("assistant", candidate["question"])] for side, candidate in sides.items()},
        **{name: record[name] for name in ("margin", "preferred_by", "pmid")},
        **{f"{score}_{side}": candidate[score] for score in _SCORES for side, candidate in sides.items()},
    }


def judge(record: Record, min_margin: float) -> list[Record]:
    """Return the rule's preference as two examples for the judge, one for each order of the candidates.

    The list is empty if the margin is under ``min_margin``. Only the rule's scores count, even if the judge decided or
    the answer was rejected.
    """
    candidates = record["candidates"] or []
    if len({candidate["question"] for candidate in candidates}) < 2:
        return []
    verdict = evaluation.prefer([candidate["mesh_score"] for candidate in candidates], min_margin, "rule")
    if verdict.preferred is None:
        return []
    shown = [
        (candidate["question"], [context["text"] for context in candidate["contexts"]]) for candidate in candidates
    ]
    return [
        {
            "prompt": evaluation.pairwise_messages(record, shown[first], shown[1 - first], examples=False),
            "completion": [ask("assistant", prompts.SIDES[first != verdict.preferred])],
            "margin": verdict.margin,
            "pmid": record["pmid"],
        }
        for first in (0, 1)
    ]


def pretrain(record: Record) -> Record:
    """Return the text in the first person, as in the m-KAILIN paper: read, look up contexts, ponder the question."""
    row = triple(record)
    contexts = "\n".join(row["contexts"])
    text = (
        f"Having read the paper {row['title']}: {row['abstract']}\n\nhaving looked up\n{contexts}\n\n"
        f"having pondered {row['question']}"
    )
    return {"text": text}


def rejected(record: Record) -> Record:
    """Return the row of a record that was not accepted: its stage, its reason, and the exact output of the models."""
    return {
        **{name: record[name] for name in ("pmid", "title", "status", "stage", "reason", "detail", "answer")},
        "reasoning": record.get("reasoning"),
        "questions": [candidate["question"] for candidate in record["candidates"] or []],
        "calls": [{name: call[name] for name in _CALL} for call in record["usage"]],
    }


ACCEPTED: dict[str, Callable[[Record], Record | None]] = {
    "triples": triple,
    "sft": sft,
    "preference": preference,
    "pretrain": pretrain,
}


HELD_OUT = ("preference", "judge")
"""Configs that train the agents themselves. The test splits of these configs measure what the agents have learned."""
