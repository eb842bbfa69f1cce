"""Test both forms of the judge on pairs with a known better candidate. Prints a table, and one JSON line last.

    python benchmarks/evidence/judge.py --pubmedqa pubmedqa.jsonl.gz [--limit 120] [distill overrides: model=…]

Each PubMedQA abstract has two candidates: its own question, and the most similar question of another abstract. Each
candidate has 4 contexts retrieved for it (from all abstracts except these two, cut to 40 words). The order of the
candidates is random. For each form of the judge, and for the MeSH rule, the table has how often it prefers the
abstract's own question (95 % interval, bootstrap). For the judge it also has the agreement with the rule, the position
bias, and the cost of a row: prompt tokens that the prefix cache did not hold, of the judge's calls and of the answer to
the preferred candidate. As in the pipeline, the question agents have read the abstract before, 16 rows run at once, and
the logits are float32. ``answer, no judge`` is the cost of the answer without a judge.
"""

import argparse
import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

WORDS, ROWS_IN_FLIGHT = 40, 16


def main() -> None:
    """Run the comparison. Imports are inside functions, as the engine's child processes import this file too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pubmedqa", type=Path, required=True, help="JSON lines with question, abstract, mesh (names)")
    parser.add_argument("--mesh", type=Path, default=Path("assets/mesh.tsv"))
    parser.add_argument("--encoder", default="assets/all-minilm-l6-v2")
    parser.add_argument("--limit", type=int, default=120, help="abstracts")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    from hydra import compose, initialize_config_dir

    from kailin_ray.config import DistillConfig, check, conf_dir
    from kailin_ray.runtime.session import engine_environment
    from kailin_ray.versions import versions

    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        nowhere = [f"{key}=." for key in ("documents", "index", "mesh", "out")]
        config = check(DistillConfig, compose("distill", [*nowhere, *options.overrides]))
    os.environ |= engine_environment(config.cluster, 1)
    cases = compared(options, config)
    forms = asyncio.run(judged(cases, config))
    rule = {"prefers own": share([case["rule"] == case["own"] for case in cases if case["rule"] is not None])}
    print(
        "| | prefers its own | agrees with the rule | kappa | shown first | flips | judge's tokens | answer's tokens |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, row in {"MeSH rule": rule, **forms}.items():
        own = row.get("prefers own")
        cells = [f"{own[0]:.2f} ({own[1]:.2f} to {own[2]:.2f})" if own else ""]
        cells += [str(row.get(key, "")) for key in ("share", "cohens_kappa", "first", "flipped", "judge", "answer")]
        print(f"| {name} | {' | '.join(cells)} |")
    result = {"benchmark": "judge", "abstracts": len(cases), "model": config.model.path, "rule": rule, "forms": forms}
    print(json.dumps(result | {"versions": versions()}))


def compared(options: argparse.Namespace, config: Any) -> list[dict[str, Any]]:
    """Return the pairs of candidates, with the rule's preference."""
    from collections import Counter

    import numpy as np
    import pubmedqa

    from kailin_ray.agents.evaluation import candidate_score, prefer
    from kailin_ray.mesh import MeshHierarchy

    mesh = MeshHierarchy.load(options.mesh)
    data = pubmedqa.read(options.pubmedqa, mesh, options.encoder)
    rows, sets = data.rows, data.descriptors
    mesh = mesh.with_counts(Counter(ui for uis in sets for ui in uis))
    pairs = pubmedqa.near_others(data)[: options.limit]
    hits = [pubmedqa.contexts(data, pairs[:, side], pairs) for side in (0, 1)]
    dice = np.random.default_rng(2)
    cases = []
    for i, (source, other) in enumerate(pairs.tolist()):
        own = int(dice.integers(2))
        order = [(source, hits[0][i]), (other, hits[1][i])][:: 1 if own == 0 else -1]
        scores = [
            candidate_score(
                mesh.score(
                    [sets[source]] * pubmedqa.TOP_K,
                    [sets[c] for c in chosen],
                    config.evaluation.measure,
                    config.evaluation.aggregate,
                ).to_pylist()
            )
            for _, chosen in order
        ]
        shown = [
            (rows[abstract]["question"], [" ".join(rows[c]["abstract"].split()[:WORDS]) for c in chosen])
            for abstract, chosen in order
        ]
        document = {"pmid": 1, "title": "", "abstract": rows[source]["abstract"]}
        cases.append({"document": document, "own": own, "shown": shown, "rule": prefer(scores, 0.0, "rule").preferred})
    return cases


async def judged(cases: list[dict[str, Any]], config: Any) -> dict[str, dict[str, Any]]:
    """Return the preferences and costs of each form of the judge."""
    import numpy as np

    from kailin_ray.agents import answer, evaluation, question
    from kailin_ray.agents.passages import context_passage, source_passage
    from kailin_ray.agents.prompts import SIDES, VERDICTS
    from kailin_ray.engines.vllm_engine import Engine
    from kailin_ray.planning.stages import engine_of

    engine = Engine(replace(engine_of(config.model, "judge"), float32_head=True))
    one_token = {"temperature": 0.0, "max_tokens": 1}
    gate = asyncio.Semaphore(ROWS_IN_FLIGHT)

    def uncached(calls: list[Any]) -> int:
        return sum(call.prompt_tokens - call.cached_tokens for call in calls)

    async def one(case: dict[str, Any], form: str) -> dict[str, Any]:
        async with gate:
            document, shown = case["document"], case["shown"]
            await engine.generate(question.messages(document, "clinical"), one_token)
            orders, calls = None, []
            if form == "pairwise":
                prompts = [evaluation.pairwise_messages(document, *pair) for pair in (shown, shown[::-1])]
                calls = [await engine.choose(prompt, SIDES) for prompt in prompts]
                orders = [call.probabilities[side] for call, side in zip(calls, SIDES, strict=True)]
                probabilities = evaluation.from_orders(*orders)
            elif form == "pointwise":
                prompts = [evaluation.pointwise_messages(document, candidate) for candidate in shown]
                calls = [await engine.choose(prompt, VERDICTS) for prompt in prompts]
                probabilities = [call.probabilities[VERDICTS[0]] for call in calls]
            else:
                probabilities = [1.0, 0.0]
            preferred = evaluation.prefer(probabilities, 0.0, "judge").preferred
            asked_question, evidence = shown[preferred or 0]
            contexts = [{"pmid": 0, "title": "", "text": text, "score": 0.0} for text in evidence]
            passages = [source_passage(document), *(context_passage(context, 1) for context in contexts)]
            prompt = answer.messages(passages, asked_question)
            answered = await engine.generate(prompt, one_token)
            return {
                "preferred": preferred, "orders": orders, "judge": uncached(calls), "answer": uncached([answered]),
            }  # fmt: skip

    by_form: dict[str, dict[str, Any]] = {}
    for form in ("answer, no judge", "pairwise", "pointwise"):
        await engine._llm.reset_prefix_cache()
        done = await asyncio.gather(*(one(case, form) for case in cases))
        by_form[form] = {name: round(float(np.mean([row[name] for row in done])), 1) for name in ("judge", "answer")}
        if form == "answer, no judge":
            continue
        decided = [(case, row) for case, row in zip(cases, done, strict=True) if row["preferred"] is not None]
        table = np.zeros((2, 2), dtype=np.int64)
        for case, row in decided:
            if case["rule"] is not None:
                table[case["rule"], row["preferred"]] += 1
        orders = np.array([row["orders"] for row in done if row["orders"]]).reshape(-1, 2)
        by_form[form] |= {"prefers own": share([row["preferred"] == case["own"] for case, row in decided])}
        by_form[form] |= evaluation.agreement(table) | evaluation.position_bias(evaluation.position_sums(orders))
    engine.shutdown()
    return by_form


def share(right: list[bool]) -> tuple[float, float, float]:
    """Return the share and its 95 % bootstrap interval."""
    import numpy as np
    from pubmedqa import interval

    return interval(np.array(right, dtype=float))


if __name__ == "__main__":
    main()
