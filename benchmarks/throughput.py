"""The pipeline beside its ceiling: the same prompts through bare async vLLM, in one run. Prints one JSON line last.

    python benchmarks/throughput.py [--limit 32] [--runs 1] [distill overrides: model=… retrieval=…]

The pipeline is the real `distill` command on real abstracts. Its prompts are then built again from its records, by the
same functions, and given to a bare AsyncLLM with the same engine arguments: all questions, then all answers, then all
decisions, each batch at once, made to generate exactly as many tokens as the pipeline did. Engine start is left out of
both. Both start with an empty prefix cache.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from transformers import AutoTokenizer

from kailin_ray.agents import answer, question
from kailin_ray.agents.preamble import DECISIONS, Message
from kailin_ray.config import Cluster
from kailin_ray.engine import prompt_ids
from kailin_ray.files import read_json
from kailin_ray.manifest import versions
from kailin_ray.pipeline import records
from kailin_ray.plan import engine_environment

Call = tuple[list[Message], int]
"""Messages, and how many tokens to generate; 0 stands for a decision."""


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=32, help="abstracts")
    parser.add_argument("--runs", type=int, default=1, help="of each side; the medians are reported")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    parser.add_argument("overrides", nargs="*", default=["retrieval=brief"])
    options = parser.parse_args()
    if any(key.startswith("evaluation.by=") and key != "evaluation.by=rule" for key in options.overrides):
        parser.error("evaluation.by: only rule; a judge's calls are measured by benchmarks/judge.py")
    keys = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    keys += [f"limit={options.limit}", *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        pairs = [measure(Path(folder, str(number)), keys) for number in range(options.runs)]
    print(json.dumps(summary(pairs, options.limit), ensure_ascii=False))


def measure(run: Path, keys: list[str]) -> dict[str, dict[str, float]]:
    """One run of the pipeline, then of the bare engine on its prompts; each in processes of its own."""
    # Its summary goes to standard error: standard output holds the result alone.
    subprocess.run([sys.executable, "-m", "kailin_ray", "distill", *keys, f"out={run}"], check=True, stdout=sys.stderr)
    manifest = read_json(run / "manifest.json")
    model, cluster = manifest["config"]["model"], TypeAdapter(Cluster).validate_python(manifest["config"]["cluster"])
    tokenizer = AutoTokenizer.from_pretrained(model["path"], revision=model["revision"])
    job = {
        "engine": {"model": model["path"], "revision": model["revision"], **model["engine"]},
        "words": DECISIONS,
        "batches": [[(prompt_ids(tokenizer, messages), n) for messages, n in batch] for batch in calls(run)],
    }
    (run / "bare.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bare_vllm.py")), str(run / "bare.json")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | engine_environment(cluster),
    )
    tokens = manifest["tokens"]
    pipeline = {"seconds": manifest["seconds"]["distill"], **{k: tokens[k] for k in ("prompt", "cached", "completion")}}
    return {"pipeline": pipeline, "bare": json.loads(done.stdout.splitlines()[-1])}


def calls(run: Path) -> Iterator[list[Call]]:
    """The run's calls, built again from its records: all questions, all answers, all decisions."""
    rows = [row for batch in records(run).to_batches() for row in batch.to_pylist()]
    config = read_json(run / "manifest.json")["config"]["model"]
    used = [{call["agent"]: call["completion_tokens"] for call in row["usage"]} for row in rows]
    pairs = list(zip(rows, used, strict=True))
    yield [
        (question.messages(row, config[agent]["persona"]), tokens[agent])
        for row, tokens in pairs
        for agent in ("general", "biomedical")
        if agent in tokens
    ]
    answered = [(row, tokens) for row, tokens in pairs if "answer" in tokens]
    asked = [row["candidates"][row["preferred"]]["question"] for row, _ in answered]
    yield [
        (answer.messages(row, text, row["contexts_text"]), tokens["answer"])
        for (row, tokens), text in zip(answered, asked, strict=True)
    ]
    yield [
        (answer.decision_messages(row, text, row["contexts_text"], row["answer"]), 0)
        for (row, tokens), text in zip(answered, asked, strict=True)
        if "decision" in tokens
    ]


def summary(pairs: list[dict[str, dict[str, float]]], limit: int) -> dict[str, Any]:
    """Medians of both sides and their ratio."""
    sides = {}
    for side in ("pipeline", "bare"):
        middle = {key: statistics.median(pair[side][key] for pair in pairs) for key in pairs[0][side]}
        sides[side] = middle | {
            "abstracts_per_second": round(limit / middle["seconds"], 3),
            "output_tokens_per_second": round(middle["completion"] / middle["seconds"], 1),
            "cached_share": round(middle["cached"] / middle["prompt"], 3),
        }
    ratios = [pair["bare"]["seconds"] / pair["pipeline"]["seconds"] for pair in pairs]
    return {
        "benchmark": "throughput",
        "num_abstracts": limit,
        "runs": len(pairs),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        **sides,
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
