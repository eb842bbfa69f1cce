"""Compare the pipeline's speed with its ceiling and its peer, in one run. Prints one JSON line last.

    python benchmarks/speed/throughput.py [--limit 96] [--runs 3] [distill overrides: model=… retrieval=…]

*pipeline*: the real `distill` command on real abstracts, including the encoding of questions and the retrieval.
*bare*, the ceiling: the same prompts through a bare AsyncLLM with the same engine arguments. The same functions rebuild
the prompts from the pipeline's records. First all questions, then all answers, then all decisions, each batch at once.
*chain*, the peer: the same prompts through ray.data.llm processors that run one after another, with an engine each for
the two question agents, the answer and the decision.

Bare and chain must generate exactly as many tokens as the pipeline did. Engine start is left out of all three, and each
starts with an empty prefix cache. The order of a run is pipeline, bare, chain, bare, so that a change in the machine's
speed is visible. Ratios are to the mean of the two bare times.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kailin_ray.agents import answer, question
from kailin_ray.agents.prompts import DECISIONS, Message
from kailin_ray.config import Cluster
from kailin_ray.dataset.records import records
from kailin_ray.engines.chat_template import choice_ids, prompt_ids
from kailin_ray.engines.tokenizer import load_tokenizer
from kailin_ray.io.files import read_json
from kailin_ray.runtime.session import engine_environment
from kailin_ray.versions import versions

Call = tuple[list[Message], int]
"""Messages, and how many tokens to generate; 0 stands for a decision."""

Figures = dict[str, float]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=96, help="abstracts")
    parser.add_argument("--runs", type=int, default=3, help="the medians are reported")
    parser.add_argument("--no-chain", action="store_true", help="leave the peer out")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    parser.add_argument("overrides", nargs="*", default=["retrieval=brief"])
    options = parser.parse_args()
    if any(key.startswith("evaluation.method=") and key != "evaluation.method=rule" for key in options.overrides):
        parser.error("evaluation.method: only rule; a judge's calls are measured by benchmarks/evidence/judge.py")
    keys = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    keys += [f"limit={options.limit}", *options.overrides]
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(Path(folder, str(number)), keys, not options.no_chain) for number in range(options.runs)]
    print(json.dumps(summary(runs, options.limit), ensure_ascii=False))


def measure(run: Path, keys: list[str], with_chain: bool) -> dict[str, Figures]:
    """Run each side once, in separate processes."""
    # The summary goes to standard error, as standard output holds only the result.
    subprocess.run([sys.executable, "-m", "kailin_ray", "distill", *keys, f"out={run}"], check=True, stdout=sys.stderr)
    manifest = read_json(run / "manifest.json")
    model, cluster = manifest["config"]["model"], TypeAdapter(Cluster).validate_python(manifest["config"]["cluster"])
    tokenizer = load_tokenizer(model["path"], model["revision"], model["engine"])
    template = tuple(sorted(model["chat_template"].items()))
    by_agent = {
        agent: [
            ((prompt_ids if tokens else choice_ids)(tokenizer, messages, template), tokens)
            for messages, tokens in agent_calls
        ]
        for agent, agent_calls in calls(run).items()
    }
    job: dict[str, Any] = {
        "engine": {"model": model["path"], "revision": model["revision"], **model["engine"]},
        "words": DECISIONS,
        "gpus": cluster.device == "gpu",
        "environment": engine_environment(cluster, 1),
        "batches": [[*by_agent["general"], *by_agent["biomedical"]], by_agent["answer"], by_agent["decision"]],
        "processors": list(by_agent.values()),
    }
    (run / "job.json").write_text(json.dumps(job))
    tokens = manifest["tokens"]
    figures = {"pipeline": {"seconds": manifest["seconds"]["distill"], **{key: tokens[key] for key in TOKENS}}}
    figures["bare"] = peer("bare_vllm.py", run / "job.json", job["environment"])
    if with_chain:
        figures["chain"] = peer("ray_llm_chain.py", run / "job.json", job["environment"])
        figures["bare_again"] = peer("bare_vllm.py", run / "job.json", job["environment"])
    print(json.dumps(figures), file=sys.stderr)
    return figures


TOKENS = ("prompt", "cached", "completion")


def peer(script: str, job: Path, environment: dict[str, str]) -> Figures:
    """Run one side's script; return seconds and tokens."""
    command = [sys.executable, str(Path(__file__).with_name(script)), str(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def calls(run: Path) -> dict[str, list[Call]]:
    """Rebuild the run's calls from its records; return them by agent."""
    rows = [row for batch in records(run).to_batches() for row in batch.to_pylist()]
    config = read_json(run / "manifest.json")["config"]["model"]
    by_agent: dict[str, list[Call]] = {name: [] for name in ("general", "biomedical", "answer", "decision")}
    for row in rows:
        tokens = {call["agent"]: call["completion_tokens"] for call in row["usage"]}
        for agent in ("general", "biomedical"):
            if agent in tokens:
                by_agent[agent].append((question.messages(row, config[agent]["persona"]), tokens[agent]))
        if "answer" in tokens:
            asked_question, contexts = row["candidates"][row["preferred"]]["question"], row["contexts_text"]
            by_agent["answer"].append((answer.messages(row, asked_question, contexts), tokens["answer"]))
            if "decision" in tokens:
                by_agent["decision"].append((answer.decision_messages(row, asked_question, contexts, row["answer"]), 0))
    return by_agent


def summary(runs: list[dict[str, Figures]], limit: int) -> dict[str, Any]:
    """Return the medians of all sides, and the pipeline's ratios to the ceiling and to the peer."""
    sides = {}
    for side in runs[0]:
        medians = {key: statistics.median(run[side][key] for run in runs) for key in runs[0][side]}
        sides[side] = medians | {
            "abstracts_per_second": round(limit / medians["seconds"], 3),
            "output_tokens_per_second": round(medians["completion"] / medians["seconds"], 1),
            "cached_share": round(medians["cached"] / medians["prompt"], 3),
        }
    ratios: dict[str, list[float]] = {"of_bare": [], "of_chain": []}
    for run in runs:
        bare = [run[side]["seconds"] for side in ("bare", "bare_again") if side in run]
        ratios["of_bare"].append(round(statistics.mean(bare) / run["pipeline"]["seconds"], 3))
        if "chain" in run:
            ratios["of_chain"].append(round(run["chain"]["seconds"] / run["pipeline"]["seconds"], 3))
    return {
        "benchmark": "throughput",
        "num_abstracts": limit,
        "runs": len(runs),
        **{name: statistics.median(values) for name, values in ratios.items() if values},
        "ratios": ratios,
        **sides,
        "versions": versions(),
    }


if __name__ == "__main__":
    main()
