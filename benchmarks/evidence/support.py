"""Test whether a model can tell answers that hold from answers that do not. Prints a table, and one JSON line last.

    python benchmarks/evidence/support.py --pubmedqa pubmedqa.jsonl.gz [--limit 100] [distill overrides: model=...]

Each PubMedQA item of the training half has a human long answer to its question, from its own abstract. Beside it stand
three answers that the abstract does not support:

- *other*: the long answer of another item;
- *number*: the own answer with one of its numbers changed (items with a number only);
- *negated*: the own answer with its first verb negated, or its negation removed.

The model is asked about each, after the answer agent's own prompt: "Is every statement of this answer supported by the
passages above? Answer yes or no." The table has the area under the ROC curve (AUC) of P(yes), own against each kind,
with its 95 % interval (bootstrap over items): 0.5 is chance. The same for the pointwise judge's question, whether the
question suits the abstract, with the question of another item: the answerability of a question. And the cost of a
check in prompt tokens that are not cached.
"""

import argparse
import asyncio
import gzip
import json
import os
import random
import re
from pathlib import Path
from typing import Any

SUPPORTED = "Is every statement of this answer supported by the passages above? Answer yes or no."
NEGATIONS = (
    (r"\b(does|do|did|is|are|was|were|has|have|can|could|should|may|might|will|would) not\b", r"\1"),
    (r"\b(no|not)\s", ""),
    (r"\b(is|are|was|were|has|have|can|could|should|may|might|will|would)\b", r"\1 not"),
)
ROWS_IN_FLIGHT = 16


def main() -> None:
    """Run the comparison. Imports are inside functions, as the engine's child processes import this file too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubmedqa", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100, help="items")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    from kailin_ray.config import DistillConfig, load
    from kailin_ray.runtime.session import engine_environment
    from kailin_ray.versions import versions

    keys = [f"{key}=none" for key in ("documents", "index", "mesh", "out")]
    config = load(DistillConfig, "distill", [*keys, *options.overrides])
    os.environ |= engine_environment(config.cluster, 1)
    items = read_items(options.pubmedqa, options.limit)
    scores, costs = asyncio.run(score(items, config))
    table = {}
    print("| check | against | items | AUC (95 % interval) |")
    print("|---|---|---|---|")
    for check, kind in (
        ("support", "other"),
        ("support", "number"),
        ("support", "negated"),
        ("suits", "other question"),
    ):
        pairs = [(row[f"{check} own"], row[f"{check} {kind}"]) for row in scores if f"{check} {kind}" in row]
        area, low, high = auc(pairs)
        table[f"{check}: {kind}"] = {"items": len(pairs), "auc": area, "low": low, "high": high}
        print(f"| {check} | {kind} | {len(pairs)} | {area:.3f} ({low:.3f} to {high:.3f}) |")
    print(f"\nPrompt tokens of a check that were not cached: {costs}")
    result = {"benchmark": "support", "items": len(items), "model": config.model.path, "auc": table, "tokens": costs}
    print(json.dumps(result | {"versions": versions()}))


def read_items(path: Path, limit: int) -> list[dict[str, Any]]:
    """Return items of the training half, each with its changed answers."""
    with gzip.open(path, "rt") as file:
        items = [item for item in map(json.loads, file) if not item["in_test_split"]]
    random.Random(0).shuffle(items)
    items = items[:limit]
    for item, other in zip(items, [*items[1:], items[0]], strict=True):
        own = item["long_answer"]
        item["answers"] = {"own": own, "other": other["long_answer"]}
        item["other question"] = other["question"]
        if changed := change_number(own):
            item["answers"]["number"] = changed
        if negated := negate(own):
            item["answers"]["negated"] = negated
    return items


def change_number(text: str) -> str | None:
    """Return the text with its last number half as large again; None without a number."""
    numbers = list(re.finditer(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-]|\.\d)", text))
    if not numbers:
        return None
    number = numbers[-1]
    changed = f"{float(number[0]) * 1.5 + 1:g}"
    return text[: number.start()] + changed + text[number.end() :]


def negate(text: str) -> str | None:
    """Return the text with its first statement negated, or without its negation; None if no pattern holds."""
    for pattern, replacement in NEGATIONS:
        changed = re.sub(pattern, replacement, text, count=1, flags=re.IGNORECASE)
        if changed != text:
            return changed
    return None


async def score(items: list[dict[str, Any]], config: Any) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return P(yes) of each item's checks, and the mean cost of each check."""
    from kailin_ray.agents import answer, evaluation
    from kailin_ray.agents.prompts import VERDICTS, ask
    from kailin_ray.engines.interface import EngineSpec
    from kailin_ray.engines.vllm_engine import Engine

    spec = EngineSpec(
        path=config.model.path, revision=config.model.revision, args=config.model.engine,
        chat_template=config.model.chat_template, float32_head=True,
    )  # fmt: skip
    engine = Engine(spec)
    places = asyncio.Semaphore(ROWS_IN_FLIGHT)
    costs: dict[str, list[int]] = {"support": [], "suits": []}

    async def choose(check: str, messages: Any) -> float:
        verdict = await engine.choose(messages, VERDICTS)
        costs[check].append(verdict.prompt_tokens - verdict.cached_tokens)
        return verdict.probabilities["yes"]

    async def one(item: dict[str, Any]) -> dict[str, float]:
        async with places:
            row = {"title": "", "abstract": item["abstract"]}
            source = {"title": "", "text": item["abstract"], "score": None}
            prompt = answer.messages([source], item["question"])
            # The answer agent has read the prompt before.
            await engine.generate(prompt, {"max_tokens": 1, "temperature": 0.0})
            found = {}
            for kind, text in item["answers"].items():
                check = [*prompt, ask("assistant", text), ask("user", SUPPORTED)]
                found[f"support {kind}"] = await choose("support", check)
            for kind, question in (("own", item["question"]), ("other question", item["other question"])):
                found[f"suits {kind}"] = await choose("suits", evaluation.pointwise_messages(row, (question, [])))
            return found

    scores = await asyncio.gather(*map(one, items))
    engine.shutdown()
    return list(scores), {check: round(sum(tokens) / len(tokens), 1) for check, tokens in costs.items()}


def auc(pairs: list[tuple[float, float]], draws: int = 1000) -> tuple[float, float, float]:
    """Return the AUC of the first of each pair against the second of each, with its bootstrap interval over pairs."""
    import numpy as np

    dice = np.random.default_rng(0)

    def area(sample: Any) -> float:
        own, other = sample[:, 0][:, None], sample[:, 1][None, :]
        return float((own > other).mean() + 0.5 * (own == other).mean())

    values = np.array(pairs)
    resampled = [area(values[dice.integers(len(values), size=len(values))]) for _ in range(draws)]
    low, high = np.percentile(resampled, (2.5, 97.5))
    return round(area(values), 4), round(float(low), 4), round(float(high), 4)


if __name__ == "__main__":
    main()
