"""Convert a record to the rows of each config of the dataset."""

from collections.abc import Callable

import pyarrow as pa

from kailin_ray.agents import answer, evaluation, prompts
from kailin_ray.agents.passages import context_passage, join_passage, source_passage
from kailin_ray.agents.prompts import TASKS, ask
from kailin_ray.schema import PASSAGE, REASONING, Row

Record = Row
"""A row with the columns of ``schema.RECORDS``, or of one of the ``SCHEMAS`` below."""

_CALL = ("agent", "prompt_hash", "finish_reason", "output")
_SCORES = ("mesh_score", "judge_probability")
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

SAY_DECISION = "In a last line, say whether the answer is yes, no or maybe."
"""The last line of a yes/no question's prompt in ``sft``. The last line of its completion is then ``Answer: yes``."""

SCHEMAS = {
    "triples": pa.schema(
        [
            ("pmid", pa.int64()),
            ("title", pa.string()),
            ("abstract", pa.string()),
            ("question", pa.string()),
            ("contexts", pa.list_(PASSAGE)),
            ("answer", pa.string()),
            ("reasoning", pa.string()),
            ("decision", pa.string()),
            ("agent", pa.string()),
            ("preferred_by", pa.string()),
            ("mesh_score", pa.float64()),
            ("margin", pa.float64()),
            ("mesh", pa.list_(pa.string())),
            ("year", pa.int16()),
            ("unseen_numbers", pa.list_(pa.string())),
        ]
    ),
    "sft": pa.schema([("prompt", _MESSAGES), ("completion", _MESSAGES), ("pmid", pa.int64())]),
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
    "pretrain": pa.schema([("text", pa.string()), ("pmid", pa.int64())]),
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
SFT_TEXT = pa.schema([("prompt", pa.string()), ("completion", pa.string()), ("pmid", pa.int64())])
"""The columns of ``sft`` as plain text."""


def is_of_before(record: Record) -> bool:
    """Return whether an answered record is of a version that did not record ``shown``."""
    return record.get("shown") is None and record.get("contexts_text") is not None


def list_shown(record: Record) -> list[Record]:
    """Return every passage that the answer agent was shown, in order and as it was shown (see ``agents.passages``).

    Earlier versions always showed the source abstract and then contexts, of which they recorded the texts.
    """
    if not is_of_before(record):
        shown: list[Record] = record["shown"]
        return shown
    contexts = record["candidates"][record["preferred"]]["contexts"]
    texts = zip(contexts, record["contexts_text"], strict=False)  # contexts that did not fit were left out
    return [
        source_passage(record),
        *(context_passage(context | {"title": None, "text": text}, record["pmid"]) for context, text in texts),
    ]


def triple(record: Record) -> Record:
    """Return question, contexts and answer of an accepted record, with their sources."""
    chosen = record["candidates"][record["preferred"]]
    return {
        **{name: record[name] for name in ("pmid", "title", "abstract", "answer", "preferred_by", "margin", "year")},
        "question": chosen["question"],
        "contexts": list_shown(record),
        "reasoning": next((call["text"] for call in record.get("reasoning") or [] if call["agent"] == "answer"), None),
        "decision": record["decision"]["word"] if record["decision"] else None,
        "agent": chosen["agent"],
        "mesh_score": chosen["mesh_score"],
        "mesh": [heading["name"] for heading in record["mesh"]],
        "unseen_numbers": record.get("unseen_numbers"),
    }


def sft(record: Record) -> Record:
    """Return prompt and completion as messages.

    The prompt is the answer agent's own, with the passages that it was shown, but without the system text and the
    worked examples. The completion of a yes/no question ends with the decision, for which the prompt asks.
    """
    row = triple(record)
    prompt, reply = answer.messages(row["contexts"], row["question"], examples=False)[-1]["content"], row["answer"]
    if row["decision"]:
        prompt, reply = f"{prompt}\n{SAY_DECISION}", f"{reply}\nAnswer: {row['decision']}"
    return {"prompt": [ask("user", prompt)], "completion": [ask("assistant", reply)], "pmid": record["pmid"]}


def sft_text(record: Record) -> Record:
    """Return prompt and completion of ``sft`` as plain text, for models without a chat template."""
    row = sft(record)
    prompt, completion = row["prompt"][0]["content"], row["completion"][0]["content"]
    return row | {"prompt": f"{prompt}\n", "completion": completion}


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
    """Return the text in the first person, as in the m-KAILIN paper: read, look up contexts, ponder the question.

    It has the passages that the answer agent was shown, and no answer.
    """
    row = triple(record)
    paragraphs = []
    contexts = [join_passage(each["title"], each["text"]) for each in row["contexts"] if each["score"] is not None]
    if len(contexts) < len(row["contexts"]):
        title = f'the title "{row["title"]}" and ' if row["title"] else ""
        paragraphs += [f"I read a paper with {title}the following abstract:", row["abstract"]]
    if contexts:
        after = "After reading it, I searched for related" if paragraphs else "I searched for"
        paragraphs += [f"{after} material and found these passages:", *contexts]
    paragraphs += ["With this in mind, I pondered the following scientific question:", row["question"]]
    return {"text": "\n\n".join(paragraphs), "pmid": record["pmid"]}


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
