"""The steps of an abstract, and the settings that affect each step."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from kailin_ray.config import Step
from kailin_ray.schema import ANSWER, ASKING, EVALUATION, OK, RECORDS, STEPS, Json

_CONCERNS = {
    ASKING: ("model.path", "model.revision", "model.general", "model.biomedical", "retrieval", "inputs.documents",
             "inputs.index", "inputs.mesh", "inputs.schema", "inputs.models.general", "inputs.models.biomedical",
             "inputs.prompts.question",
             "evaluation.measure", "evaluation.aggregate"),  # scores are computed where contexts are retrieved
    EVALUATION: ("evaluation", "model.judge", "inputs.models.judge", "inputs.prompts.evaluation"),
    ANSWER: ("model", "answer", "inputs.models", "inputs.prompts.answer"),
}  # fmt: skip
"""The settings of a run (``identity.open_run``), by the first step that they affect. The engine arguments of all agents
count for the last step: questions that were generated with other arguments stay valid."""


def step_of(setting: str) -> str | None:
    """Return the first step that a setting affects; None if it affects none."""
    for step, prefixes in _CONCERNS.items():
        if any(setting == prefix or setting.startswith(f"{prefix}.") for prefix in prefixes):
            return step
    return None


def step_changed(before: Json, now: Json) -> tuple[str, str] | None:
    """Return the first step that differs between the flat settings of two runs, and one setting that causes it.

    None if no step differs. Settings that only one run has are ignored: a run with only the answer step has no models
    for the question agents.
    """
    changed = [(step_of(key), key) for key in sorted(before.keys() & now.keys()) if before[key] != now[key]]
    with_step = [(step, key) for step, key in changed if step]
    return min(with_step, key=lambda step_and_key: STEPS.index(step_and_key[0])) if with_step else None


def later(step: str) -> tuple[Step, ...]:
    """Return a step and all steps after it."""
    steps: Any = STEPS[STEPS.index(step) :]
    return tuple(steps)


def phases_folder(run: Path) -> Path:
    """Return where the phases of a run leave records for later phases. Earlier versions called it ``parts``."""
    old = run / "parts"
    return old if old.exists() else run / "phases"


def begin_again(block: pa.Table, step: str) -> pa.Table:
    """Reset records to their state before ``step`` (evaluation or answer). Records that ended earlier are unchanged."""
    rows = block.to_pylist()
    for row in rows:
        if row["status"] != OK and STEPS.index(row["stage"]) < STEPS.index(step):
            continue
        if row["status"] != OK:
            row["detail"] = None
        row |= dict.fromkeys(
            ("contexts_text", "shown", "answer", "decision", "unseen_numbers", "status", "stage", "reason")
        )
        row["usage"] = [call for call in row["usage"] if call["agent"] not in ("answer", "decision")]
        row["reasoning"] = [call for call in row.get("reasoning") or [] if call["agent"] != "answer"]
        if step == EVALUATION:
            row |= dict.fromkeys(("preferred", "preferred_by", "margin", "judge_orders"))
            row["usage"] = [call for call in row["usage"] if call["agent"] != "judge"]
            for candidate in row["candidates"]:
                candidate["judge_probability"] = None
    return pa.Table.from_pylist(rows, RECORDS)


def first(steps: Iterable[str]) -> str:
    """Return the earliest of some steps."""
    return min(steps, key=STEPS.index)
