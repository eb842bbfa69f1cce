"""The plot of a training's losses."""

import pytest

from kailin_ray.engines.adapters import LogRow
from kailin_ray.training.report import SMOOTHED, plot_losses


@pytest.mark.parametrize("steps", [0, 1, 40])
def test_the_losses_of_the_steps_their_mean_and_the_held_out_loss_are_drawn(steps: int) -> None:
    log: list[LogRow] = [{"step": step, "loss": 2.0 / step} for step in range(1, steps + 1)]
    log += [{"step": 20, "eval_loss": 0.7}, {"step": 40, "eval_loss": 0.5}]
    (axes,) = plot_losses(log).axes
    each, mean, held_out = axes.lines
    losses = [2.0 / step for step in range(1, steps + 1)]
    assert (list(each.get_xdata()), list(each.get_ydata())) == (list(range(1, steps + 1)), losses)
    width = max(1, steps // SMOOTHED)
    windows = [losses[max(0, i - width) : i + 1] for i in range(steps)]
    assert list(mean.get_ydata()) == pytest.approx([sum(window) / len(window) for window in windows])
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == ([20, 40], [0.7, 0.5])
    assert axes.get_legend() is not None
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "each step", f"mean of {width + 1} steps", "held out",
    ]  # fmt: skip
