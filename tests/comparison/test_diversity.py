"""An agent that asks everybody the same shows."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.comparison import diversity
from kailin_ray.comparison.diversity import (
    ALIKE,
    MEASURES,
    commonest_opening,
    compare_diversity,
    index_questions,
    measure,
)
from kailin_ray.corpus.overlap.ngrams import word_list

VARIED = [
    "Does aspirin lower fever in children with malaria?",
    "Does insulin lower glucose in obese rats?",
    "How does heparin prevent clotting after surgery?",
    "Why is digoxin given in heart failure?",
]
SAME = "What is the effect of this treatment?"
WORDS = st.lists(st.sampled_from(["does", "aspirin", "lower", "fever", "in", "rats"]), min_size=1, max_size=6)
QUESTIONS = st.lists(WORDS.map(lambda words: " ".join(words) + "?"), min_size=1, max_size=12)


def measured(questions: list[str]) -> dict[str, float]:
    found = measure(index_questions(pa.array(questions, pa.large_string())), np.ones(len(questions), bool))
    return dict(zip(MEASURES, found, strict=True))


@given(QUESTIONS)
def test_it_is_what_its_definition_says(questions: list[str]) -> None:
    words = [word_list(question) for question in questions]
    found = measured(questions)
    for length in (1, 2, 3):
        grams = [tuple(some[at : at + length]) for some in words for at in range(len(some) - length + 1)]
        assert found[f"distinct_{length}"] == pytest.approx(len(set(grams)) / max(1, len(grams)))
    assert found["exact_repeats"] == pytest.approx(sum(words.count(some) > 1 for some in words) / len(words))
    openings = [some[:3] for some in words]
    assert found["commonest_opening"] == max(map(openings.count, openings)) / len(words)
    # Sketches find nearly all pairs that are alike, and no others.
    sets = [set(some) for some in words]

    def repeats(least: float) -> int:
        pairs = [[len(a & b) >= least * len(a | b) for j, b in enumerate(sets) if j != i] for i, a in enumerate(sets)]
        return sum(map(any, pairs))

    assert repeats(1.0) / len(sets) - 1e-9 <= found["near_repeats"] <= repeats(ALIKE) / len(sets) + 1e-9


def test_the_same_question_everywhere_is_all_repeats() -> None:
    assert measured(VARIED) | {"distinct_1": 0} == {
        "distinct_1": 0, "distinct_2": pytest.approx(26 / 26, abs=0.1), "distinct_3": 1.0, "exact_repeats": 0.0,
        "near_repeats": 0.0, "commonest_opening": 0.25,
    }  # fmt: skip
    same = measured([SAME] * 5)
    assert (same["exact_repeats"], same["near_repeats"], same["commonest_opening"]) == (1.0, 1.0, 1.0)
    assert same["distinct_1"] == pytest.approx(1 / 5)
    assert commonest_opening(pa.array([*VARIED, SAME, SAME])) == "What is the"


def test_a_question_with_one_other_word_is_a_near_repeat_of_two() -> None:
    found = measured([*VARIED, "Does aspirin lower fever in women with malaria?", "Does aspirin lower fever, or not?"])
    assert (found["exact_repeats"], found["near_repeats"]) == (0.0, 0.0)  # 7 of 9 words
    longer = "Does aspirin lower high fever quickly in small children with malaria?"
    found = measured([*VARIED, longer, longer.replace("quickly", "slowly")])  # 10 of 12 words
    assert (found["exact_repeats"], found["near_repeats"]) == (0.0, pytest.approx(2 / 6))
    assert measured([longer, longer.upper(), *VARIED])["exact_repeats"] == pytest.approx(2 / 6)


def test_it_does_not_hang_on_the_order() -> None:
    questions = VARIED * 2 + ["Why?", "Why is it so?", "Why is it so, then?"]
    assert measured(questions) == measured(random.Random(0).sample(questions, len(questions)))


def test_the_same_questions_do_not_differ_and_of_none_nothing_is_said() -> None:
    questions = pa.array(VARIED * 3, pa.large_string())
    for one in compare_diversity(questions, questions).values():
        assert one["difference"] == [0, 0, 0]
        assert one["old"] == one["new"]
        assert 0 <= one["old"][1] <= one["old"][0] <= one["old"][2] <= 1
    none = compare_diversity(questions.slice(0, 0), questions.slice(0, 0))
    assert none.keys() == set(MEASURES)
    assert none["distinct_1"]["difference"] is None


def test_what_a_hacked_reward_does_shows_beyond_chance() -> None:
    dice = random.Random(1)
    old = [f"Does {dice.randrange(500)} lower {dice.randrange(500)} in {dice.randrange(500)}?" for _ in range(60)]
    new = [question if dice.random() < 0.6 else SAME for question in old]
    found = compare_diversity(pa.array(old, pa.large_string()), pa.array(new, pa.large_string()))
    assert found["distinct_3"]["difference"][2] < 0
    for name in ("exact_repeats", "near_repeats"):
        assert found[name]["difference"][1] > 0
        assert found[name]["new"][0] == pytest.approx(new.count(SAME) / 60)


def test_an_interval_is_as_wide_as_the_spread_of_many_samples() -> None:
    dice = random.Random(2)

    def sample() -> pa.Array:
        asked = [SAME if dice.random() < 0.3 else f"Does drug {dice.random()} help?" for _ in range(100)]
        return pa.array(asked, pa.large_string())

    place = MEASURES.index("exact_repeats")
    spread = np.std([measure(index_questions(sample()), np.ones(100, bool))[place] for _ in range(60)])
    questions = sample()
    mean, low, high = compare_diversity(questions, questions)["exact_repeats"]["old"]
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.35)
    assert low < mean < high


def test_pairs_that_are_alike_are_found_through_sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, too; each of 40 questions has a twin with one other word of eleven, and nobody else."""
    monkeypatch.setattr(diversity, "TEXTS_AT_ONCE", 16)
    dice = random.Random(3)
    voc = [f"word{number}" for number in range(2_000)]
    firsts = [dice.sample(voc, 11) for _ in range(40)]
    twins = [[*words[:-1], "another"] for words in firsts]
    found = measured([" ".join(words) for words in [*firsts, *twins]])
    assert found["near_repeats"] == 1.0
    assert found["exact_repeats"] == 0.0
