"""What each column of each published config means, for the card and the reference."""

_PMID = "PMID of the abstract that the row was made from"
_MARGIN = "difference of the two candidates' scores; for the judge's examples, of the rule's"
_PROMPT = "the abstract and the neutral task of asking one question"
_JUDGE = "the abstract, two candidates as A and B with their contexts, and the task of choosing"

TRIPLES = {
    "pmid": _PMID,
    "title": "title of that abstract",
    "abstract": "the abstract",
    "question": "the preferred question",
    "contexts": "every passage that the answer agent was shown, in order and as it was shown. `score`: the "
    "retrieval's, null where the source abstract was shown as such. `is_source`: it is the row's own abstract",
    "answer": "the answer to the question",
    "reasoning": "what the model wrote to reason before its answer; null if it did not",
    "decision": "yes, no or maybe, for a yes/no question; null for others",
    "agent": "the question agent that asked",
    "preferred_by": "what preferred this question: rule, judge, or only (there was no other)",
    "mesh_score": "mean MeSH similarity of the question's contexts to the abstract; null without headings",
    "margin": "difference of the two candidates' scores; null if there was only one",
    "mesh": "MeSH headings of the abstract",
    "year": "year of publication; null if unknown",
    "unseen_numbers": "numbers of the answer, as it writes them, that stand in no passage that the agent was shown; "
    "null if an earlier version did not look for them",
}
SFT = {
    "prompt": "the passages that the answer agent was shown, the question and the task",
    "completion": "the answer; for a yes/no question its last line is the decision",
    "pmid": _PMID,
}
PREFERENCE = {
    "prompt": _PROMPT,
    "chosen": "the preferred question",
    "rejected": "the other question for the same abstract",
    "margin": _MARGIN,
    "preferred_by": "rule or judge",
    "mesh_score_chosen": "mean MeSH similarity of the contexts of `chosen`",
    "mesh_score_rejected": "the same of `rejected`",
    "judge_probability_chosen": "the judge's probability of `chosen`; null where no judge was asked",
    "judge_probability_rejected": "the same of `rejected`",
    "pmid": _PMID,
}
JUDGE = {
    "prompt": _JUDGE,
    "completion": "A or B: the MeSH rule's preference",
    "margin": _MARGIN,
    "pmid": _PMID,
}
PRETRAIN = {
    "text": "a text in the first person: the abstract was read, the passages were looked up, the question follows",
    "pmid": _PMID,
}
REJECTED = {
    "pmid": _PMID,
    "title": "title of that abstract",
    "status": "rejected (by a check or the method) or failed (an error)",
    "stage": "the step where the row ended: question, evaluation or answer",
    "reason": "why, in one word",
    "detail": "why, in more words; null if the reason says all",
    "questions": "the usable questions",
    "answer": "the answer that was not accepted; null if there was none",
    "calls": "what each agent's model wrote, and how it ended",
    "reasoning": "what models wrote to reason before their answers",
}
REMOVED = {
    "pmid": "PMID of a document that was left out before anything was generated",
    "reason": "why, in one word",
    "detail": "why, in more words, such as the document that it repeats",
}
MEANINGS = {
    "triples": TRIPLES,
    "sft": SFT,
    "preference": PREFERENCE,
    "judge": JUDGE,
    "pretrain": PRETRAIN,
    "rejected": REJECTED,
    "removed": REMOVED,
}
"""Meanings in parquet and jsonl, by config and column."""

_SYSTEM = "the system text of all agents"
OTHER_FORMATS = {
    "sharegpt": {
        "sft": {"conversations": f"{SFT['prompt']}, then {SFT['completion']}", "pmid": _PMID},
        "preference": {
            "conversations": f"the system text, then {_PROMPT}",
            "chosen": PREFERENCE["chosen"],
            "rejected": PREFERENCE["rejected"],
            "margin": _MARGIN,
            "pmid": _PMID,
        },
        "judge": {
            "conversations": f"the system text, {_JUDGE}, then {JUDGE['completion']}",
            "margin": _MARGIN,
            "pmid": _PMID,
        },
    },
    "alpaca": {
        "sft": {
            "instruction": "the question and the task",
            "input": "the passages that the answer agent was shown",
            "output": SFT["completion"],
            "pmid": _PMID,
        },
        "preference": {
            "instruction": _PROMPT,
            "input": "empty",
            "chosen": PREFERENCE["chosen"],
            "rejected": PREFERENCE["rejected"],
            "system": _SYSTEM,
            "margin": _MARGIN,
            "pmid": _PMID,
        },
        "judge": {
            "instruction": _JUDGE,
            "input": "empty",
            "output": JUDGE["completion"],
            "system": _SYSTEM,
            "margin": _MARGIN,
            "pmid": _PMID,
        },
        "pretrain": PRETRAIN,
    },
}


def meanings_of(name: str) -> dict[str, dict[str, str]]:
    """Return the meanings of the columns of a format, by config and column."""
    return OTHER_FORMATS.get(name, MEANINGS)
