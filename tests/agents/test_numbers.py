import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.agents.numbers import find_unseen_numbers

PASSAGE = (
    "Of 1,200 patients 38 percent (95% CI 31-45) had IL-6 above 4.25 mg/l; thirty-one died within two hundred days. "
    "The ratio was 0.17. The second group had 12 345 cells, 0·5 of them alive."
)


@pytest.mark.parametrize(
    ("said", "unseen"),
    [
        ("It was 38% of 1200 patients.", []),
        ("It was 38 per cent of 1 200 patients.", []),
        ("It was 0.38 of them, or 17%.", []),
        ("The ratio was 0·17, and 0.5 or .5 were alive.", []),
        ("It was 31 to 45 (95% CI).", []),
        ("It was 38% (99% confidence interval 31-45).", []),
        ("IL-6 was 4.3 mg/l, or 4.25.", []),
        ("CD4 and p53 and COX-2 and HbA1c were not measured.", []),
        ("31 died within 200 days in group 2.", []),
        ("Of 12,345 cells few lived.", []),
        ("Three of seventeen patients died.", []),
        ("It was 37% of 1,300 patients.", ["37", "1,300"]),
        ("It was 4.2 mg/l, 4.4 mg/l and 4.4 again.", ["4.4"]),
        ("It took 5 mg for 10-14 days.", ["5", "10", "14"]),
        ("In 2016 it was 1.2 million.", ["2016", "1.2"]),
    ],
)
def test_numbers_that_no_passage_has(said: str, unseen: list[str]) -> None:
    assert find_unseen_numbers(said, ["", PASSAGE]) == unseen


def test_each_passage_counts() -> None:
    assert find_unseen_numbers("It was 5 or 7.", ["It was 5.", "It was seven."]) == []
    assert find_unseen_numbers("It was 5 or 7.", []) == ["5", "7"]


@given(st.text(alphabet="0123456789.,·% abz-'\u00a0٣²thousand", max_size=80), st.text(max_size=80))
def test_any_text_is_read(said: str, passage: str) -> None:
    assert find_unseen_numbers(said, [said]) == []
    assert all(written in said for written in find_unseen_numbers(said, [passage]))
