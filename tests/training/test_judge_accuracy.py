"""Accuracy and position bias of a judge, by known probabilities and by the real small model."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kailin_ray.agents.evaluation import pairwise_messages
from kailin_ray.engines.chat_template import choice_ids, prompt_ids
from kailin_ray.engines.token_ids import plain_ids
from kailin_ray.training.judge_accuracy import compute_accuracy, probabilities, with_examples
from tests.conftest import MODEL


def test_a_judge_that_always_says_a_is_right_by_chance_and_all_bias() -> None:
    shown_a, says_a = np.full(8, 0.9), np.array([True, False] * 4)
    found = compute_accuracy(shown_a, says_a, [1, 1, 2, 2, 3, 3, 4, 4])
    assert (found["abstracts"], found["accuracy"], found["accuracy_each_order"]) == (4, 0.5, 0.5)
    assert found["position_bias"] == {"rows": 4, "first": 0.9, "flipped": 1.0}


def test_a_judge_that_knows_is_right_in_both_orders_whatever_the_rows_order() -> None:
    pmids = np.array([5, 6, 5, 6, 7])  # of 7 one order alone is there, which counts for nothing
    says_a = np.array([True, False, False, True, True])
    found = compute_accuracy(np.where(says_a, 0.8, 0.1), says_a, pmids.tolist())
    assert (found["abstracts"], found["accuracy"], found["interval"]) == (2, 1.0, [1.0, 1.0])
    assert found["position_bias"] == {"rows": 2, "first": 0.45, "flipped": 0.0}


def test_leaning_to_one_side_does_not_hide_what_the_judge_knows() -> None:
    says_a = np.array([True, False])
    found = compute_accuracy(np.array([0.95, 0.6]), says_a, [1, 1])  # 0.95 and 0.4 for the preferred one: 0.675
    assert (found["accuracy"], found["accuracy_each_order"]) == (1.0, 0.5)


def test_a_tie_is_half_right_and_turns_nothing() -> None:
    says_a = np.array([True, False, True, False])
    found = compute_accuracy(np.array([0.5, 0.5, 0.5, 0.4]), says_a, [1, 1, 2, 2])
    assert (found["accuracy"], found["accuracy_each_order"]) == (0.75, 0.625)
    assert found["position_bias"]["flipped"] == 0.0


def test_no_pairs_no_figures() -> None:
    found = compute_accuracy(np.zeros(0), np.zeros(0, bool), [])
    assert (found["abstracts"], found["accuracy"], found["position_bias"]["rows"]) == (0, None, 0)


def test_probabilities_are_those_of_each_prompt_alone_whatever_they_share() -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    row = {"title": "Azide.", "abstract": "Azide preserved tissues."}
    shown = [("Does azide preserve tissues?", ["One."]), ("Why?", ["Two.", "Another passage that is longer."])]
    prompts = [pairwise_messages(row, a, b, examples=False) for a, b in (shown, shown[::-1])]
    prompts.append(with_examples(prompts[0]))
    prompts.append(prompts[1])  # the same again
    found = probabilities(model, tokenizer, prompts, ())
    with torch.inference_mode():
        for prompt, shown_a in zip(prompts, found, strict=True):
            logits = model(input_ids=torch.tensor([prompt_ids(tokenizer, prompt)])).logits[0, -1]
            a, b = (logits[plain_ids(tokenizer, side)[0]].item() for side in "AB")
            assert shown_a == pytest.approx(1 / (1 + np.exp(b - a)), abs=1e-4)
    assert prompts[2] == pairwise_messages(row, *shown)
    assert probabilities(model, tokenizer, [], ()).shape == (0,)


def test_a_template_that_writes_before_an_answer_does_not_hide_the_choice() -> None:
    """As Qwen3's empty block of reasoning: A and B are compared after it."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{{ '<think>\n\n</think>\n\n' if m['role'] == 'assistant' else '' }}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"
    )
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    prompt = [{"role": "user", "content": "Say A or B. Say A."}]
    (shown_a,) = probabilities(model, tokenizer, [prompt], ())
    ids = choice_ids(tokenizer, prompt)
    assert tokenizer.decode(ids).endswith("<think>\n\n</think>\n\n")
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    a, b = (logits[plain_ids(tokenizer, side)[0]].item() for side in "AB")
    assert shown_a == pytest.approx(1 / (1 + np.exp(b - a)), abs=1e-4)
    assert shown_a != pytest.approx(0.5, abs=1e-4)
