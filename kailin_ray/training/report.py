"""Write a training's summary, README card and loss plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from kailin_ray.engines.adapters import Adapter, AdapterManifest, JudgeAccuracy, LogRow
from kailin_ray.io.manifests import NAME
from kailin_ray.io.plots import BLUE, GREY, ORANGE, save

USE = {
    "question": ("general", " model.general.persona=any"),
    "dpo": ("general", " model.general.persona=any"),
    "judge": ("judge", " evaluation.judge.mode=pairwise"),
}
"""For each task, the agent that uses its adapter, and the other keys that this needs."""
SMOOTHED = 20
"""The running mean spans the number of steps divided by this."""


def draw_losses(log: Sequence[LogRow], path: Path) -> None:
    """Draw the loss of each step, its running mean and the held-out loss, as a PNG."""
    save(plot_losses(log), path, dpi=110)


def plot_losses(log: Sequence[LogRow]) -> Figure:
    """Return the figure of ``draw_losses``."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps, losses = _series(log, "loss")
    axes.plot(steps, losses, color=GREY, linewidth=0.8, label="each step")
    width = max(1, len(losses) // SMOOTHED)
    means = [_mean(losses[max(0, i - width) : i + 1]) for i in range(len(losses))]
    axes.plot(steps, means, color=BLUE, linewidth=2, label=f"mean of {width + 1} steps")
    held_out = _series(log, "eval_loss")
    axes.plot(*held_out, color=ORANGE, marker="o", linestyle="none", label="held out")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _series(log: Sequence[LogRow], name: Literal["loss", "eval_loss"]) -> tuple[list[int], list[float]]:
    rows = [row for row in log if name in row]
    return [row["step"] for row in rows], [row[name] for row in rows]


def format_training(adapter: Adapter) -> str:
    """Return a training's summary, and the keys that use its adapter."""
    manifest = adapter.manifest
    lines = _summary(adapter)
    if manifest.kind == "adapter" and manifest.task in USE:  # others are downstream models, not agents
        agent, keys = USE[manifest.task]
        lines.append(f"use it      model.{agent}.adapter={adapter.path} model.{agent}.examples=false{keys}")
    return "\n".join(lines)


def _summary(adapter: Adapter) -> list[str]:
    manifest, examples = adapter.manifest, adapter.manifest.examples
    lines = [
        f"{adapter.path}: {manifest.task} on {manifest.base.name}: {examples.train:,} examples, "
        f"{examples.test:,} held out, {manifest.steps:,} steps"
    ]
    if examples.left_out:
        lines.append("left out: " + ", ".join(f"{number:,} {name}" for name, number in examples.left_out.items()))
    losses = [row["loss"] for row in manifest.log if "loss" in row]
    if losses:
        lines.append(f"loss        {_mean(losses[:10]):.3f} at the start, {_mean(losses[-10:]):.3f} at the end")
    return lines + figures(manifest)


def figures(manifest: AdapterManifest) -> list[str]:
    """Return lines of what was measured on the held-out examples, before and after."""
    before, after = manifest.before, manifest.after
    if not after:
        return ["held out    none: nothing was measured"]
    assert before  # measured on the same examples
    lines = []
    if "loss" in after:
        lines.append(f"held out    loss: {before['loss']:.3f} before, {after['loss']:.3f} after")
    if "mean_token_accuracy" in after:
        accuracies = before["mean_token_accuracy"], after["mean_token_accuracy"]
        lines.append(f"held out    token accuracy: {accuracies[0]:.3f} before, {accuracies[1]:.3f} after")
    if "rewards/accuracies" in after:
        lines.append(f"held out    pairs ranked as preferred: {after['rewards/accuracies']:.3f}")
    if "bare" in after:
        rows = (("untrained, with the worked examples", before["with_examples"]), ("untrained", before["bare"]))
        lines += [f"judge       {state}: {_judge(accuracy)}" for state, accuracy in (*rows, ("trained", after["bare"]))]
    return lines


def _judge(figures: JudgeAccuracy) -> str:
    low, high = figures["interval"]
    bias = figures["position_bias"]
    return (
        f"agrees with the rule on {figures['accuracy']} of {figures['abstracts']} abstracts ({low} to {high}); "
        f"candidate shown first: mean probability {bias['first']}, share of flipped verdicts {bias['flipped']}"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def card(manifest: AdapterManifest, name: str) -> str:
    """Return the folder's README: what it holds, its data and settings, and the training's figures."""
    base = manifest.base.name
    peft = [f"base_model: {base}", "library_name: peft"] if manifest.kind == "adapter" else []
    summary = "\n".join(f"- {line}" for line in format_training(Adapter(Path(name), manifest)).splitlines()[1:])
    return "\n".join(
        [
            "---",
            *peft,
            "tags: [biology, medical, kailin_ray]",
            "---",
            "",
            f"# {manifest.task} on {base}",
            "",
            f"Made by `kailin-ray train task={manifest.task}` ({manifest.versions.get('commit', '')}).",
            f"Data: `{manifest.config['data']['path']}`, identity `{manifest.data[:16]}`. "
            f"All settings are in `{NAME}`.",
            "",
            summary,
            "",
            "![losses](loss.png)",
            "",
        ]
    )
