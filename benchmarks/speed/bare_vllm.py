"""The ceiling of throughput.py: run batches of token ids through a bare AsyncLLM. Run by throughput.py.

Imports nothing from the project. At the top it imports only the standard library, as vLLM's child processes import it.
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any


async def run(job: dict[str, Any]) -> dict[str, float]:
    """Generate exactly the requested tokens, one whole batch after another; return seconds and tokens."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**job["engine"]))
    choice = StructuredOutputsParams(choice=job["words"])
    decide = SamplingParams(temperature=0.0, max_tokens=1, logprobs=12, structured_outputs=choice)
    totals = {"prompt": 0, "cached": 0, "completion": 0}

    async def one(name: str, ids: list[int], tokens: int) -> None:
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True) if tokens else decide
        final: Any = None
        async for output in engine.generate(TokensPrompt(prompt_token_ids=ids), params, name):
            final = output
        totals["prompt"] += len(ids)
        totals["cached"] += final.num_cached_tokens or 0
        totals["completion"] += len(final.outputs[0].token_ids)

    started = time.monotonic()
    for number, batch in enumerate(job["batches"]):
        await asyncio.gather(*(one(f"{number}-{i}", ids, tokens) for i, (ids, tokens) in enumerate(batch)))
    seconds = time.monotonic() - started
    engine.shutdown()
    return {"seconds": round(seconds, 1), **totals}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))))
