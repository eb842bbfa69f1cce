"""Rounds of SIGKILL at random moments of real runs, driver and engine in turn. Prints one JSON line last.

    python benchmarks/faults/kills.py [--rounds 20] [--limit 64] [--seed 0] [--dtype float32] [--demo demo]

Real abstracts, the real small model, greedy sampling. After a driver's death the same command goes on; an engine's
death the run mends itself. A run that gets complete before all rounds are done is compared with an undisturbed one,
and another begins. *lost* and *doubled* are PMIDs; *other_status* and *other_text* count rows that differ from the
undisturbed run's. Greedy sampling depends on what else is in the batch where two tokens are nearly as likely: often in
bfloat16, hardly in float32, the default here. Two undisturbed runs are compared the same way beside it
(*undisturbed_twice*).
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from kailin_ray.dataset.records import records
from kailin_ray.io.files import read_json
from kailin_ray.versions import versions

LONGEST_S = 90.0
"""A round's kill comes between 5 and so many seconds after the one before: at an engine's start, or at work."""
GREEDY = [f"model.{agent}.sampling.temperature=0" for agent in ("general", "biomedical", "answer")]


def main() -> None:
    """Run, kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=64, help="abstracts of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dtype", default="float32", help="of the models' weights")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    options = parser.parse_args()
    keys = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    keys += [f"limit={options.limit}", "retrieval=brief", "evaluation.by=rule", *GREEDY]
    keys += ["cluster.rows_per_block=4", "cluster.rows_in_flight=16", f"model.engine.dtype={options.dtype}"]
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for twice in ("a", "b"):
            finish(start(folder / twice, keys), folder / twice)
        left = options.rounds
        runs: list[dict[str, Any]] = []
        while left:
            run = folder / f"disturbed-{len(runs)}"
            killed = disturb(run, keys, left, dice)
            left -= sum(killed.values())
            runs.append({"killed": dict(killed), **compared(folder / "a", run)})
            print(json.dumps(runs[-1]), file=sys.stderr)
        twice_the_same = compared(folder / "a", folder / "b")
    result = {"benchmark": "faults", "abstracts": options.limit, "rounds": options.rounds, "dtype": options.dtype}
    result |= {"runs": runs, "undisturbed_twice": twice_the_same, "versions": versions()}
    print(json.dumps(result))


def start(run: Path, keys: list[str]) -> subprocess.Popen[bytes]:
    """Start the command, or go on with its run."""
    command = [sys.executable, "-m", "kailin_ray", "distill", f"out={run}", *keys]
    with run.with_suffix(".said").open("a") as said:
        return subprocess.Popen(command, stdout=said, stderr=said)


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait for a command's end; raise if it failed."""
    if process.wait():
        said = run.with_suffix(".said").read_text()[-3_000:]
        raise RuntimeError(f"distill ended with {process.returncode}: {said}")


def disturb(run: Path, keys: list[str], rounds: int, dice: random.Random) -> Counter[str]:
    """Kill driver and engine in turn until so many rounds are done or the run is complete; then let it end."""
    killed: Counter[str] = Counter()
    process = start(run, keys)
    while killed.total() < rounds:
        try:
            process.wait(dice.uniform(5.0, LONGEST_S))
            break
        except subprocess.TimeoutExpired:
            pass
        if killed["driver"] <= killed["engine"]:
            killed["driver"] += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = start(run, keys)
        elif engines := engine_processes(process.pid):
            killed["engine"] += 1
            engines[0].kill()
    finish(process, run)
    return killed


def engine_processes(driver: int) -> list[psutil.Process]:
    """The processes of vLLM's engines under a driver."""
    found = []
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if "EngineCore" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def compared(undisturbed: Path, run: Path) -> dict[str, Any]:
    """How a run's records differ from an undisturbed run's."""
    expected, found = rows(undisturbed), rows(run)
    both = [(expected[pmid][0], found[pmid][0]) for pmid in expected.keys() & found.keys()]
    manifest = read_json(run / "manifest.json")
    return {
        "rows": len(found),
        "lost": len(expected.keys() - found.keys()),
        "doubled": sum(len(one) > 1 for one in found.values()),
        "statuses": dict(Counter(row["status"] for one in found.values() for row in one)),
        "engine_died": sum(row["reason"] == "engine_died" for one in found.values() for row in one),
        "other_status": sum(a["status"] != b["status"] for a, b in both),
        "other_text": sum(text(a) != text(b) for a, b in both),
        "sessions": manifest["sessions"],
        "restarts": manifest["restarts"],
    }


def rows(run: Path) -> dict[int, list[dict[str, Any]]]:
    """A run's records by PMID."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in records(run).to_table(columns=["pmid", "status", "reason", "candidates", "answer"]).to_pylist():
        found.setdefault(row["pmid"], []).append(row)
    return found


def text(row: dict[str, Any]) -> tuple[Any, ...]:
    """What the models wrote of a row."""
    return row["answer"], [one["question"] for one in row["candidates"] or []]


if __name__ == "__main__":
    main()
