"""Measure how often a judge agrees with the MeSH rule, and how much it depends on the order of the candidates."""

import copy
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from kailin_ray.agents.evaluation import TIE, position_bias, position_sums
from kailin_ray.agents.prompts import PREAMBLE, SIDES
from kailin_ray.comparison.statistics import interval, points
from kailin_ray.engines.adapters import JudgeAccuracy
from kailin_ray.engines.chat_template import Arguments, choice_ids, choice_token


def probabilities(model: Any, tokenizer: Any, prompts: list[Any], arguments: Arguments) -> npt.NDArray[np.float64]:
    """Return (n,) probabilities of A where only A and B are allowed, as in the engine's constrained choice.

    A beginning that prompts share (the worked examples, an abstract whose candidates are shown in either order) is read
    once, as in the engine's prefix cache. For 50 prompts, 0.8 of the tokens are read; with the examples, half of them.
    """
    import torch
    from transformers import DynamicCache

    if not prompts:
        return np.zeros(0)
    ids = [choice_ids(tokenizer, prompt, arguments) for prompt in prompts]
    first, second = (choice_token(tokenizer, prompts[0], side, arguments) for side in SIDES)
    first_probabilities = np.zeros(len(ids))

    def read(group: list[int], num_read: int, cache: Any) -> None:
        """Read on in the prompts of ``group``, which share their first ``num_read`` tokens; ``cache`` holds these."""
        columns = zip(*(ids[row] for row in group), strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns))
        if shared > num_read:
            unread = torch.tensor([ids[group[0]][num_read:shared]], device=model.device)
            logits = model(input_ids=unread, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            finished = [row for row in group if len(ids[row]) == shared]
            first_probabilities[finished] = torch.softmax(logits[[first, second]].double(), dim=0)[0].item()
        unfinished = sorted((row for row in group if len(ids[row]) > shared), key=lambda row: ids[row][shared])
        for _, branch in itertools.groupby(unfinished, key=lambda row: ids[row][shared]):
            read(list(branch), shared, copy.deepcopy(cache))

    with torch.inference_mode():
        read(list(range(len(ids))), 0, DynamicCache(config=model.config))
    return first_probabilities


def with_examples(prompt: Any) -> list[Any]:
    """Return a judge's prompt with the worked examples, as an untrained judge is asked."""
    return [*PREAMBLE, prompt[-1]]


def compute_accuracy(
    shown_a: npt.NDArray[np.float64], says_a: npt.NDArray[np.bool_], pmids: list[int]
) -> JudgeAccuracy:
    """Return the accuracy against the rule, and the position bias.

    ``shown_a`` (n,): the probability of A. ``says_a`` (n,): whether the rule prefers A. ``pmids`` (n,): an abstract has
    two rows, one for each order of its candidates. The mean over both orders counts, as in a run; a tie counts half,
    like a guess. The interval resamples abstracts.
    """
    abstracts = np.unique(np.array(pmids), return_inverse=True)[1]
    rows = np.argsort(abstracts, kind="stable")
    complete = np.flatnonzero(np.bincount(abstracts) == 2)
    pairs = rows[np.isin(abstracts[rows], complete)].reshape(-1, 2)
    right = np.where(says_a, shown_a, 1 - shown_a)  # the probability of the side that the rule prefers
    # The probability of one candidate: shown first (as A) in the first row, shown second (as B) in the other.
    orders = np.column_stack([shown_a[pairs[:, 0]], 1 - shown_a[pairs[:, 1]]])
    half = np.array(0.5)
    hits = points(half, right[pairs].mean(axis=1), TIE)
    hit_interval = interval(hits)
    return {
        "abstracts": len(pairs),
        "accuracy": round(float(hits.mean()), 4) if len(hits) else None,
        "interval": [round(bound, 4) for bound in hit_interval[1:]] if hit_interval else [None, None],
        "accuracy_each_order": round(float(points(half, right[pairs], TIE).mean()), 4) if len(hits) else None,
        "position_bias": position_bias(position_sums(orders)),
    }
