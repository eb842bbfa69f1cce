"""What a person looks at of a training: its summary, its folder's card, the picture of its losses."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kailin_ray.io.files import atomic_file
from kailin_ray.io.plots import BLUE, GREY, ORANGE

USE = {
    "question": ("general", " model.general.persona=any"),
    "dpo": ("general", " model.general.persona=any"),
    "judge": ("judge", " evaluation.judge.form=pairwise"),
}
"""Whose adapter it is, and what else its use needs."""
SMOOTHED = 20
"""Points of the line through the steps' losses."""


def draw_losses(log: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss of each step, a running mean through them, and the held-out loss, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, losses = _series(log, "loss")
    axes.plot(steps, losses, color=GREY, linewidth=0.8, label="each step")
    width = max(1, len(losses) // SMOOTHED)
    means = [_mean(losses[max(0, at - width) : at + 1]) for at in range(len(losses))]
    axes.plot(steps, means, color=BLUE, linewidth=2, label=f"mean of {width + 1} steps")
    held_out = _series(log, "eval_loss")
    axes.plot(*held_out, color=ORANGE, marker="o", linestyle="none", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_file(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _series(log: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    rows = [row for row in log if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def summary(out: Path, manifest: dict[str, Any]) -> str:
    """What a person wants to know of a training, and how to use what it made."""
    examples, base = manifest["examples"], manifest["base"]["name"]
    lines = [
        f"{out}: {manifest['task']} on {base}: {examples['train']:,} examples, {examples.get('test', 0):,} held out, "
        f"{manifest['steps']:,} steps"
    ]
    if examples["left_out"]:
        lines.append("left out: " + ", ".join(f"{number:,} {name}" for name, number in examples["left_out"].items()))
    losses = [row["loss"] for row in manifest["log"] if "loss" in row]
    if losses:
        lines.append(f"loss        {_mean(losses[:10]):.3f} at first, {_mean(losses[-10:]):.3f} at last")
    lines += figures(manifest)
    if manifest["kind"] == "adapter" and manifest["task"] in USE:  # others are downstream models, not agents
        agent, more = USE[manifest["task"]]
        lines.append(f"use it      model.{agent}.adapter={out} model.{agent}.examples=false{more}")
    return "\n".join(lines)


def figures(manifest: dict[str, Any]) -> list[str]:
    """Lines of what was measured on the held-out examples, before and after."""
    before, after = manifest["before"], manifest["after"]
    if not after:
        return ["held out    none: nothing was measured"]
    lines = [
        f"held out    {told}: {before[name]:.3f} before, {after[name]:.3f} after"
        for name, told in (("loss", "loss"), ("mean_token_accuracy", "token accuracy"))
        if name in after
    ]
    if "rewards/accuracies" in after:
        lines.append(f"held out    pairs ranked as they were preferred: {after['rewards/accuracies']:.3f}")
    if "bare" in after:
        rows = (("untrained, with the worked examples", before["with_examples"]), ("untrained", before["bare"]))
        lines += [f"judge       {told}: {_judge(one)}" for told, one in (*rows, ("trained", after["bare"]))]
    return lines


def _judge(figures: dict[str, Any]) -> str:
    low, high = figures["interval"]
    bias = figures["position_bias"]
    return (
        f"agrees with the rule on {figures['accuracy']} of {figures['abstracts']} ({low} to {high}); "
        f"P of what is shown first {bias['first']}, turns with the order {bias['flipped']}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def card(manifest: dict[str, Any], name: str) -> str:
    """The folder's README: what it is, of what it was made, what it gave."""
    config, base = manifest["config"], manifest["base"]
    peft = [f"base_model: {base['name']}", "library_name: peft"] if manifest["kind"] == "adapter" else []
    told = "\n".join(f"- {line}" for line in summary(Path(name), manifest).splitlines()[1:])
    return "\n".join(
        [
            "---",
            *peft,
            "tags: [biology, medical, kailin_ray]",
            "---",
            "",
            f"# {manifest['task']} on {base['name']}",
            "",
            f"Made by `python -m kailin_ray train task={manifest['task']}` ({manifest['versions'].get('commit', '')}).",
            f"Data: `{config['data']['path']}`, identity `{manifest['data'][:16]}`. All settings: `manifest.json`.",
            "",
            told,
            "",
            "![losses](loss.png)",
            "",
        ]
    )
