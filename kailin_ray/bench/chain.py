"""The peer of a benchmark: run batches of token ids through a chain of ray.data.llm processors with an engine each.

Run as a program of its own, with the job as a file of JSON. The processors run one after another over all rows. Each
is as lean as possible: prompts are token ids, so there is no templating, tokenizing or detokenizing stage. A
processor's time counts from the arrival of its first request at the engine to its last row, so engine start is left
out.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
import ray.data


def run_processor(job: dict[str, Any], calls: list[Any]) -> float:
    """Run one processor over its calls; return seconds."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    arguments = {name: value for name, value in job["engine"].items() if name not in ("model", "revision")}
    config = vLLMEngineProcessorConfig(
        model_source=job["engine"]["model"],
        engine_kwargs=arguments | {"enable_prefix_caching": True},
        runtime_env={"env_vars": job["environment"]},
        concurrency=job["replicas"],
        batch_size=16,
        placement_group_config={"bundles": [{"CPU": 1} | ({"GPU": 1} if job["gpus"] else {})] * max(1, job["gpus"])},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    choice = {"temperature": 0.0, "max_tokens": 1, "logprobs": 12, "structured_outputs": {"choice": job["words"]}}

    def prepare(row: dict[str, Any]) -> dict[str, Any]:
        forced = {"temperature": 0.0, "max_tokens": int(row["tokens"]), "ignore_eos": True}
        return {"tokenized_prompt": row["ids"], "sampling_params": forced if row["tokens"] else choice}

    def finish(row: dict[str, Any]) -> dict[str, Any]:
        times = row["metrics"]
        return {
            "arrived": times["arrival_time"],
            # The row's own time_taken_llm starts before the processor's semaphore.
            "ended": times["arrival_time"] + times["last_token_ts"] - times["queued_ts"],
        }

    processor = build_processor(config, preprocess=prepare, postprocess=finish)
    rows = ray.data.from_items([{"ids": ids, "tokens": tokens} for ids, tokens in calls])
    done = processor(rows.repartition(max(1, len(calls) // 16))).to_pandas()
    return float(done["ended"].max() - done["arrived"].min())


def main() -> None:
    """Run all processors, one after another."""
    job = json.loads(Path(sys.argv[1]).read_text())
    os.environ |= job["environment"]
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    seconds = sum(run_processor(job, calls) for calls in job["processors"])
    print(json.dumps({"seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()
