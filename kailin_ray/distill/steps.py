"""The steps of an abstract, and which settings concern which step."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from kailin_ray.config import Step
from kailin_ray.schema import ANSWER, ASKING, EVALUATION, OK, RECORDS, STEPS, Json

_CONCERNS = {
    ASKING: ("model.path", "model.revision", "model.general", "model.biomedical", "retrieval", "inputs.documents",
             "inputs.index", "inputs.mesh", "inputs.schema", "inputs.models.general", "inputs.models.biomedical",
             "inputs.prompts.question",
             "evaluation.measure", "evaluation.aggregate"),  # scores are made where contexts are found
    EVALUATION: ("evaluation", "model.judge", "inputs.models.judge", "inputs.prompts.evaluation"),
    ANSWER: ("model", "inputs.models", "inputs.prompts.answer"),
}  # fmt: skip
"""Which settings of a run (``identity.open_run``) concern which step first. The engine arguments of all agents count
for the last: what was made with others stays what it is."""


def step_of(setting: str) -> str | None:
    """The first step that a setting concerns; None for one that concerns none."""
    for step, prefixes in _CONCERNS.items():
        if any(setting == prefix or setting.startswith(f"{prefix}.") for prefix in prefixes):
            return step
    return None


def step_changed(before: Json, now: Json) -> tuple[str, str] | None:
    """The first step that differs between two runs' flat settings, and one setting that makes it so.

    What only one of them has counts for nothing: a run that answers alone knows no model of the question agents.
    """
    changed = [(step_of(key), key) for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]
    found = [(step, key) for step, key in changed if step]
    return min(found, key=lambda one: STEPS.index(one[0])) if found else None


def later(step: str) -> tuple[Step, ...]:
    """A step and those after it."""
    found: Any = STEPS[STEPS.index(step) :]
    return tuple(found)


def begin_again(block: pa.Table, step: str) -> pa.Table:
    """Records as they were before ``step``, evaluation or answer. Those that ended earlier stay as they are."""
    rows = block.to_pylist()
    for row in rows:
        if row["status"] != OK and STEPS.index(row["stage"]) < STEPS.index(step):
            continue
        if row["status"] != OK:
            row["detail"] = None
        row |= dict.fromkeys(("contexts_text", "answer", "decision", "status", "stage", "reason"))
        row["usage"] = [call for call in row["usage"] if call["agent"] not in ("answer", "decision")]
        if step == EVALUATION:
            row |= dict.fromkeys(("preferred", "preferred_by", "margin", "judge_orders"))
            row["usage"] = [call for call in row["usage"] if call["agent"] != "judge"]
            for candidate in row["candidates"]:
                candidate["judge_probability"] = None
    return pa.Table.from_pylist(rows, RECORDS)


def first(steps: Iterable[str]) -> str:
    """The step that comes before the others."""
    return min(steps, key=STEPS.index)
