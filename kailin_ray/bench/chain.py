"""The peer of a benchmark: run batches of token ids through a chain of ray.data.llm processors with an engine each.

Run as a program of its own, with the job as a file of JSON. The processors run one after another over all rows. Each
is as lean as possible: prompts are token ids, so there is no templating, tokenizing or detokenizing stage. A
processor's time counts from the arrival of its first request at the engine to its last row, so engine start is left
out.
"""

import json
import os
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import ray
import ray.data

METRICS_PORT = 18_765


def run_processor(job: dict[str, Any], calls: list[Any]) -> dict[str, float]:
    """Run one processor over its calls; return seconds and tokens."""
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
            "prompt": row["num_input_tokens"],
            "completion": row["num_generated_tokens"],
        }

    processor = build_processor(config, preprocess=prepare, postprocess=finish)
    rows = ray.data.from_items([{"ids": ids, "tokens": tokens} for ids, tokens in calls])
    with Cached() as cached:
        done = processor(rows.repartition(max(1, len(calls) // 16))).to_pandas()
    return {
        "seconds": float(done["ended"].max() - done["arrived"].min()),
        "prompt": int(done["prompt"].sum()),
        "completion": int(done["completion"].sum()),
        "cached": cached.tokens,
    }


class Cached:
    """Context manager that reads from Ray's Prometheus endpoint how many prompt tokens the engine's cache held.

    The rows of ray.data.llm do not contain this.
    """

    def __enter__(self) -> "Cached":
        self.tokens, self._stop = 0, threading.Event()
        self._before = self._read()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(3)
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.tokens = max(self.tokens, self._read() - self._before)

    def _read(self) -> int:
        try:
            page = urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}", timeout=5).read().decode()
        except OSError:
            return 0
        lines = (line.rsplit(" ", 1) for line in page.splitlines() if "prefix_cache_hits" in line and line[0] != "#")
        return int(sum(float(value) for name, value in lines if "external" not in name and "mm_" not in name))


def main() -> None:
    """Run all processors, one after another."""
    job = json.loads(Path(sys.argv[1]).read_text())
    os.environ |= job["environment"]
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        _metrics_export_port=METRICS_PORT,
        _system_config={"metrics_report_interval_ms": 500},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    totals = {"seconds": 0.0, "prompt": 0, "cached": 0, "completion": 0}
    for calls in filter(None, job["processors"]):
        figures = run_processor(job, calls)
        totals = {name: value + figures[name] for name, value in totals.items()}
    print(json.dumps(totals | {"seconds": round(totals["seconds"], 1)}))


if __name__ == "__main__":
    main()
