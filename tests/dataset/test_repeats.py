from pathlib import Path

import numpy as np
import pytest

from kailin_ray.dataset import repeats
from kailin_ray.dataset.repeats import Questions, find_repeats

ASPIRIN = "Does low-dose aspirin reduce the recurrence of colorectal adenomas in women?"
REWORDED = [
    "does low-dose aspirin reduce recurrence of colorectal adenomas in women?",
    "Did low dose aspirin reduce the recurrence of a colorectal adenoma in the women?",
    "Can low-dose aspirin reduce the recurrence of colorectal adenomas in women",
]
OTHER = [
    "Does low-dose aspirin reduce the recurrence of colorectal adenomas in men?",
    "Does low-dose metformin reduce the recurrence of colorectal adenomas in women?",
    "Does low-dose aspirin reduce the recurrence of colorectal adenomas without women?",
    "How does low-dose aspirin reduce the recurrence of colorectal adenomas in women?",
    "Does low-dose aspirin not reduce the recurrence of colorectal adenomas in women?",
    "Does depression cause obesity?",
    "Does obesity cause depression?",
    "Does azide affect tissues?",
    "Does insulin affect neoplasms?",
    "Does 5 mg of insulin affect neoplasms?",
    "Does 10 mg of insulin affect neoplasms?",
    "Is there an association between serum vitamin D before surgery and the risk of breast cancer recurrence?",
    "Is there an association between serum vitamin D after surgery and the risk of breast cancer recurrence?",
]


def batches(texts: list[str], scores: list[float | None], margins: list[float | None] | None = None, size: int = 3):
    pmids = np.arange(100, 100 + len(texts))
    for start in range(0, len(texts), size):
        piece = slice(start, start + size)
        yield Questions(
            pmids[piece],
            np.array(scores[piece], np.float64),
            np.array((margins or [None] * len(texts))[piece], np.float64),
            texts[piece],
        )


def test_reworded_questions_go_and_questions_of_the_same_template_stay(tmp_path: Path) -> None:
    texts = [*REWORDED, ASPIRIN, *OTHER]
    found = find_repeats(batches(texts, [0.5] * len(texts)), 0.9, tmp_path / "sketches")
    assert found.pmids.tolist() == [101, 102, 103]
    assert found.kept.tolist() == [100, 100, 100]
    assert not (tmp_path / "sketches").exists()


@pytest.mark.parametrize(
    ("scores", "margins", "kept"),
    [
        ([0.1, 0.3, 0.2, None], [None] * 4, 101),
        ([None] * 4, [0.1, None, 0.4, 0.3], 102),
        ([0.2] * 4, [0.1, 0.1, 0.1, 0.2], 103),
        ([None] * 4, [None] * 4, 100),
    ],
)
def test_the_better_scored_question_stays(tmp_path: Path, scores: list, margins: list, kept: int) -> None:
    found = find_repeats(batches([ASPIRIN, *REWORDED], scores, margins), 0.9, tmp_path / "sketches")
    assert sorted({100, 101, 102, 103} - set(found.pmids.tolist())) == [kept]
    assert set(found.kept.tolist()) == {kept}


def test_one_of_many_equal_questions_stays_whatever_the_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"Does azide affect tissue {number % 5}?" for number in range(500)]
    scores = [float((7 * number) % 499) for number in range(500)]
    best = {max(range(kind, 500, 5), key=lambda number: scores[number]) + 100 for kind in range(5)}
    for entries in (10_000_000, 600):
        monkeypatch.setattr(repeats, "ENTRIES_AT_ONCE", entries)
        monkeypatch.setattr(repeats, "ROWS_AT_ONCE", entries // 10)
        found = find_repeats(batches(texts, scores, size=entries // 10), 0.9, tmp_path / "sketches")
        assert set(range(100, 600)) - set(found.pmids.tolist()) == best
        assert set(found.kept.tolist()) == best


@pytest.mark.parametrize("texts", [[], ["Is it?"], ["Is it?", "Was it?", "", "?"]])
def test_few_and_empty_questions(tmp_path: Path, texts: list[str]) -> None:
    found = find_repeats(batches(texts, [None] * len(texts)), 0.9, tmp_path / "sketches")
    assert set(found.pmids.tolist()) <= set(range(100, 104))
