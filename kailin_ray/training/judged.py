"""How well a judge prefers what the MeSH rule does, and how far it hangs on the order in which candidates are shown."""

from typing import Any

import numpy as np
import numpy.typing as npt

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.agents.preamble import PREAMBLE, SIDES
from kailin_ray.chat import Arguments, plain_ids, prompt_ids
from kailin_ray.comparison.statistics import interval, points


def probabilities(
    model: Any, tokenizer: Any, prompts: list[Any], arguments: Arguments, batch_size: int
) -> npt.NDArray[np.float64]:
    """(n,) of A, where only A and B count: what the engine's constrained choice gives."""
    import torch

    first, second = (plain_ids(tokenizer, side)[0] for side in SIDES)
    ids = [prompt_ids(tokenizer, prompt, arguments) for prompt in prompts]
    found = np.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        lengths = [len(ids[at]) for at in batch]
        padded = [ids[at] + [0] * (max(lengths) - len(ids[at])) for at in batch]
        mask = [[1] * length + [0] * (max(lengths) - length) for length in lengths]
        ends = sorted(set(lengths))
        with torch.inference_mode():
            # Only where a prompt of the batch ends: all of its tokens' logits would be gigabytes.
            logits = model(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                logits_to_keep=torch.tensor([end - 1 for end in ends], device=model.device),
            ).logits
        last = logits[range(len(batch)), [ends.index(length) for length in lengths]].float()
        found[batch] = torch.softmax(last[:, [first, second]], dim=1)[:, 0].cpu().numpy()
    return found


def with_examples(prompt: Any) -> list[Any]:
    """A judge's prompt with the worked examples: as it is asked before it is trained."""
    return [*PREAMBLE, prompt[-1]]


def judged(shown_a: npt.NDArray[np.float64], says_a: npt.NDArray[np.bool_], pmids: list[int]) -> dict[str, Any]:
    """Accuracy against the rule and position bias.

    ``shown_a`` (n,): the probability of A; ``says_a`` (n,): the rule prefers A; ``pmids`` (n,): two rows each, the
    candidates in either order. Per abstract the mean over both orders counts, as in a run; a tie is half right, as is
    guessing. The interval resamples abstracts.
    """
    number = np.unique(np.array(pmids), return_inverse=True)[1]
    rows = np.argsort(number, kind="stable")
    both = np.flatnonzero(np.bincount(number) == 2)
    pairs = rows[np.isin(number[rows], both)].reshape(-1, 2)
    right = np.where(says_a, shown_a, 1 - shown_a)  # of the side that the rule prefers
    # The probability of the candidate that was shown first in the first row, where it was A and where it was B.
    orders = np.column_stack([shown_a[pairs[:, 0]], 1 - shown_a[pairs[:, 1]]])
    half = np.array(0.5)
    hits = points(half, right[pairs].mean(axis=1), TIE)
    three = interval(hits)
    return {
        "abstracts": len(pairs),
        "accuracy": round(float(hits.mean()), 4) if len(hits) else None,
        "interval": [round(end, 4) for end in three[1:]] if three else [None, None],
        "accuracy_each_order": round(float(points(half, right[pairs], TIE).mean()), 4) if len(hits) else None,
        "position_bias": position_bias(position_sums(orders)),
    }
