"""An agent that asks everybody the same shows."""

import random

from kailin_ray.comparison.diversity import diversity

VARIED = [f"Does {drug} lower {what} in {who}?" for drug, what, who in zip(
    ("aspirin", "insulin", "heparin", "digoxin"), ("fever", "glucose", "clotting", "the pulse"),
    ("children with malaria", "obese rats", "surgical patients", "heart failure"), strict=True)]  # fmt: skip


def test_distinct_n_grams_are_counted_over_all() -> None:
    found = diversity(["is a b", "is a c"])
    assert (found["distinct_1"], found["distinct_2"], found["distinct_3"]) == (round(4 / 6, 4), 0.75, 1.0)


def test_the_same_question_everywhere_is_all_repeats() -> None:
    found = diversity(["What does this mean?"] * 5)
    assert (found["repeats"], found["near_repeats"], found["commonest_opening"]) == (1.0, 1.0, 1.0)
    assert found["opening"] == "what does this"
    varied = diversity(VARIED)
    assert (varied["repeats"], varied["near_repeats"], varied["commonest_opening"]) == (0.0, 0.0, 0.25)
    assert varied["distinct_2"] > 2 * found["distinct_2"]


def test_a_question_with_one_other_word_is_a_near_repeat() -> None:
    found = diversity([*VARIED, "Does aspirin quickly lower fever in children with malaria?"])
    assert (found["repeats"], found["near_repeats"]) == (0.0, 0.4)


def test_it_does_not_hang_on_the_order_and_nothing_has_none() -> None:
    questions = VARIED * 2 + ["Why?", "Why is it so?"]
    shuffled = random.Random(0).sample(questions, len(questions))
    assert diversity(questions) == diversity(shuffled) | {"opening": diversity(questions)["opening"]}
    assert diversity([])["distinct_1"] is None
