"""What is drawn of a comparison: each difference with its interval, in the colour of what it means."""

from pathlib import Path

import matplotlib.image
import pytest
from matplotlib.colors import to_hex

from kailin_ray.comparison.plots import draw_differences, plot_differences
from kailin_ray.comparison.report import FEWEST, MEASURES, SCORE, SHARE, WORDS, Line
from kailin_ray.io.plots import BLUE, GREY, ORANGE

BLACK = "#000000"


def line(key: str, difference: tuple[float, float, float], abstracts: int = FEWEST) -> Line:
    return Line("general", key, MEASURES[key], None, None, difference, abstracts)


# In the order of the figures' file; the panels are in the order of their units.
LINES = [
    line("words", (2.0, 1.0, 3.0)),
    line("mesh_score", (0.2, 0.1, 0.3)),
    line("distinct_1", (-0.2, -0.3, -0.1)),
    line("exact_repeats", (-0.2, -0.3, -0.1)),
    line("distinct_2", (0.1, -0.1, 0.3)),
    line("distinct_3", (0.2, 0.1, 0.3), FEWEST - 1),
]
DRAWN = {
    SCORE: [("mesh_score", BLUE)],
    WORDS: [("words", BLACK)],
    SHARE: [("distinct_1", ORANGE), ("exact_repeats", BLUE), ("distinct_2", GREY), ("distinct_3", GREY)],
}


def test_each_difference_is_drawn_with_its_interval_in_its_colour() -> None:
    panels = plot_differences(LINES, 1_234).axes
    assert [axes.get_title(loc="left") for axes in panels] == list(DRAWN)
    by_key = {line.key: line for line in LINES}
    for axes, wanted in zip(panels, DRAWN.values(), strict=True):
        labels = [label.get_text() for label in axes.get_yticklabels()][::-1]
        assert labels == [f"general: {MEASURES[key].name}" for key, _ in wanted]
        zero, *drawn = axes.lines
        assert list(zero.get_xdata()) == [0, 0]
        assert len(drawn) == 2 * len(wanted)
        for place, (key, colour) in enumerate(reversed(wanted)):
            interval, mean = drawn[2 * place : 2 * place + 2]
            middle, low, high = by_key[key].difference
            assert list(interval.get_xdata()) == [low, high]
            assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([middle], [place])
            assert to_hex(interval.get_color()) == to_hex(mean.get_color()) == colour


@pytest.mark.parametrize("number", [1, 6])
def test_the_picture_has_room_for_every_line(tmp_path: Path, number: int) -> None:
    draw_differences(LINES[:number], 10, tmp_path / "a.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert width == 1100
    assert height >= max(330, 26 * number)
