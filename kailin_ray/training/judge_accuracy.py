"""How well a judge prefers what the MeSH rule does, and how far it hangs on the order in which candidates are shown."""

import copy
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.agents.prompts import PREAMBLE, SIDES
from kailin_ray.comparison.statistics import interval, points
from kailin_ray.engines.adapters import JudgeAccuracy
from kailin_ray.engines.chat_template import Arguments, plain_ids, prompt_ids


def probabilities(model: Any, tokenizer: Any, prompts: list[Any], arguments: Arguments) -> npt.NDArray[np.float64]:
    """(n,) of A, where only A and B count: what the engine's constrained choice gives.

    What prompts begin with alike (the worked examples, an abstract whose candidates are shown in either order) is read
    once, as the engine's prefix cache would: of 50 prompts 0.8 of the tokens, with the examples half of them.
    """
    import torch
    from transformers import DynamicCache

    first, second = (plain_ids(tokenizer, side)[0] for side in SIDES)
    ids = [prompt_ids(tokenizer, prompt, arguments) for prompt in prompts]
    found = np.zeros(len(ids))

    def read(group: list[int], num_read: int, cache: Any) -> None:
        """Read on in the prompts that are alike in the first ``num_read`` tokens, which ``cache`` holds."""
        abreast = zip(*(ids[at] for at in group), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, abreast))
        if shared > num_read:
            part = torch.tensor([ids[group[0]][num_read:shared]], device=model.device)
            logits = model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            ended = [at for at in group if len(ids[at]) == shared]
            found[ended] = torch.softmax(logits[[first, second]].double(), dim=0)[0].item()
        going_on = sorted((at for at in group if len(ids[at]) > shared), key=lambda at: ids[at][shared])
        for _, same in itertools.groupby(going_on, key=lambda at: ids[at][shared]):
            read(list(same), shared, copy.deepcopy(cache))

    with torch.inference_mode():
        read(list(range(len(ids))), 0, DynamicCache(config=model.config))
    return found


def with_examples(prompt: Any) -> list[Any]:
    """A judge's prompt with the worked examples: as it is asked before it is trained."""
    return [*PREAMBLE, prompt[-1]]


def compute_accuracy(
    shown_a: npt.NDArray[np.float64], says_a: npt.NDArray[np.bool_], pmids: list[int]
) -> JudgeAccuracy:
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
