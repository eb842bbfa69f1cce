"""``bench`` through the command line: with engines that answer at once, and once with a real one."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray

from kailin_ray.bench.job import combine
from kailin_ray.config import BenchConfig, load
from kailin_ray.distill import pipeline
from kailin_ray.engines.interface import Generation, RecordedCall
from kailin_ray.errors import ConfigError
from tests.conftest import MESH, Command
from tests.distill.test_pipeline import FakeEngine
from tests.support.commands import run_here
from tests.support.distil_with_a_fake_engine import TwoPassages

LIMIT = 24


class RepeatingEngine(FakeEngine):
    """Records its calls, and repeats them."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkstemp()[1]))
        self.calls: list[RecordedCall] | None = None

    async def generate(self, messages: Any, sampling: Any, adapter: str | None = None) -> Generation:
        return self._record(await super().generate(messages, sampling, adapter), messages, sampling, ())

    async def choose(self, messages: Any, words: Any, adapter: str | None = None) -> Generation:
        return self._record(await super().choose(messages, words, adapter), messages, {}, words)

    def _record(self, generation: Generation, messages: Any, sampling: Any, words: Sequence[str]) -> Generation:
        generation = replace(generation, seconds=0.5, first_token_seconds=0.25, prompt_hash=str(hash(str(messages))))
        if self.calls is not None:
            call = RecordedCall(
                prompt=[1, 2], sampling=sampling, words=words, adapter=None, began=0.0, generation=generation
            )
            self.calls.append(call)
        return generation

    async def reset_prefix_cache(self) -> None:
        pass

    async def repeat(self, call: RecordedCall) -> tuple[int, int]:
        await asyncio.sleep(0.01)
        return call.generation.cached_tokens, call.generation.completion_tokens


@contextmanager
def fakes() -> Iterator[None]:
    """Inside the block the pipeline has engines that answer at once."""
    distill = pipeline.distill

    def with_fakes(*arguments: Any, **options: Any) -> None:
        options["start_engine"] = replace(options["start_engine"], start=lambda _: RepeatingEngine())
        retriever = ray.remote(num_cpus=0)(TwoPassages).remote()
        distill(*arguments, **options | {"retrievers": [retriever]})

    with patch.object(pipeline, "distill", with_fakes):
        yield


@pytest.fixture(scope="module")
def inputs(documents: Path, index: Path) -> list[str]:
    return [f"documents={documents}", f"index={index}", f"mesh={MESH}", f"limit={LIMIT}", "retrieval=brief"]


@pytest.fixture(scope="module")
def swept(
    ray_here: Callable[[], None], inputs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    """A sweep over the number of engines, one of which is more than the machine has."""
    ray_here()
    out = tmp_path_factory.mktemp("bench") / "out"
    sweep = "bench.sweep={cluster.num_engines: [1, 2, 64], max_num_seqs: [4]}"
    with fakes():
        done = run_here(["bench", *inputs, f"out={out}", sweep, "evaluation.method=rule", "cluster.block_rows=4",
                         "cluster.cpus_per_engine=0.5"])  # fmt: skip
    return done, out


def test_each_combination_is_measured_and_what_cannot_run_is_said(swept: tuple[Any, Path]) -> None:
    done, out = swept
    assert done.returncode == 1
    report = json.loads((out / "bench.json").read_text())
    one, two, many = report["entries"]
    assert [entry["settings"]["cluster.num_engines"] for entry in report["entries"]] == [1, 2, 64]
    assert "64 x 0.5" in many["failure"] and many["runs"] == []
    for entry, replicas in ((one, 1), (two, 2)):
        (figures,) = entry["runs"]
        assert figures["num_documents"] == LIMIT
        assert figures["unit"] == "engine" and figures["num_units"] == replicas
        (stage,) = figures["stages"]
        assert stage["replicas"] == replicas
        # Every call of the pipeline was repeated, with as many tokens.
        assert stage["calls"] >= 2 * LIMIT
        assert stage["bare_completion_tokens"] == stage["completion_tokens"] == 3 * stage["calls"]
        assert stage["bare_cached_tokens"] == stage["cached_tokens"]
        assert figures["first_token"] == {"p50": 0.25, "p95": 0.25}
        assert figures["abstracts_per_second"] * figures["unit_seconds"] == pytest.approx(LIMIT, rel=0.01)
        assert 0 < figures["of_bare"] < 1
    assert "measurement 2 of 3" in done.stdout and "best: " in done.stdout
    assert [path.name for path in out.iterdir() if path.is_dir()] == ["measurement-3-1"]  # the log of what failed


def test_the_page_has_hardware_versions_and_a_row_for_each_combination(swept: tuple[Any, Path]) -> None:
    _, out = swept
    page = (out / "README.md").read_text()
    report = json.loads((out / "bench.json").read_text())
    assert f"python {report['versions']['python']}" in page
    assert f"{report['machines'][0]['cores']} cores" in page and "no GPU" in page
    rows = [line for line in page.splitlines() if line.startswith("| `cluster.num")]
    assert len(rows) == 3 and "failed: " in rows[2]
    assert len({line.count("|") for line in page.split("## Stages")[0].splitlines() if line.startswith("|")}) == 1


def test_a_real_engine_beside_itself(kailin_subprocess: Command, inputs: list[str], tmp_path: Path) -> None:
    done = kailin_subprocess(
        "bench", *inputs, "limit=4", f"out={tmp_path / 'out'}", "evaluation.method=rule_then_judge"
    )
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "out" / "bench.json").read_text())["entries"]
    (figures,) = entry["runs"]
    (stage,) = figures["stages"]
    assert figures["num_documents"] == 4
    assert stage["bare_completion_tokens"] == stage["completion_tokens"] > 0
    assert 0 < stage["cached_tokens"] < stage["prompt_tokens"]
    assert 0 < figures["busy_share"] <= 1 and figures["of_bare"] > 0
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (["from=run"], "from"),
        (["out=s3://bucket/bench"], "out: this must be a local path"),
        (["bench.sweep={max_num_sequences: [1]}"], "model.engine.max_num_sequences"),
        (["bench.sweep={cluster.engines: [1]}"], "cluster.engines"),
        (["bench.sweep={clusters.num_engines: [1]}"], "bench.sweep: clusters.num_engines"),
        (["bench.sweep={max_num_seqs: []}"], "bench.sweep.max_num_seqs"),
        (["bench.sweep={bench.runs: [1]}"], "bench.sweep: bench.runs"),
        (["bench.chain=true", "bench.bare=false"], "bench.chain"),
        (["bench.runs=0"], "bench.runs"),
    ],
)
def test_wrong_keys(inputs: list[str], keys: list[str], said: str, tmp_path: Path) -> None:
    done = run_here(["bench", *inputs, "evaluation.method=rule", f"out={tmp_path / 'out'}", *keys])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_report_is_not_written_over_another(inputs: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    done = run_here(["bench", *inputs, f"out={tmp_path}"])
    assert done.returncode == 2 and f"out: {tmp_path} exists" in done.stderr


def test_every_combination_of_the_sweep() -> None:
    keys = ["documents=d", "index=i", "mesh=m", "out=o", "bench.sweep={max_num_seqs: [1, 2], limit.x: [3]}"]
    with pytest.raises(ConfigError, match="limit"):
        list(combine(load(BenchConfig, "bench", keys)))
    keys[-1] = "bench.sweep={max_num_seqs: [1, 2], retrieval.top_k: [3, 4]}"
    combined = [config for _, config in combine(load(BenchConfig, "bench", keys))]
    assert [(c.model.engine["max_num_seqs"], c.retrieval.top_k) for c in combined] == [(1, 3), (1, 4), (2, 3), (2, 4)]
