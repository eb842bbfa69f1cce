"""Kill the driver and an engine of real runs in turn, with SIGKILL at random moments. Prints one JSON line last.

    python benchmarks/faults/kills.py [--rounds 20] [--limit 64] [--seed 0] [--dtype float32] [--demo demo]

The abstracts and the small model are real; sampling is greedy. After a driver's death the same command resumes the
run. After an engine's death the run recovers by itself. A run that completes before all rounds are done is compared
with an undisturbed run, and another run begins. *lost* and *doubled* count PMIDs that are missing or occur twice;
*other_status* and *other_text* count rows that differ from the undisturbed run. Greedy sampling depends on the rest of
the batch if two tokens are almost equally likely: often in bfloat16, rarely in float32, which is the default here. Two
undisturbed runs are compared in the same way (*undisturbed_twice*).
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
"""A kill comes between 5 and this many seconds after the last kill: while an engine starts, or while it works."""
GREEDY = [f"model.{agent}.sampling.temperature=0" for agent in ("general", "biomedical", "answer")]


def main() -> None:
    """Run, kill, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--limit", type=int, default=64, help="abstracts of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--dtype", default="float32", help="of the models' weights")
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="a folder with documents and index")
    options = parser.parse_args()
    keys = [f"documents={options.demo}/documents", f"index={options.demo}/index", "mesh=assets/mesh.tsv"]
    keys += [f"limit={options.limit}", "retrieval=brief", "evaluation.method=rule", *GREEDY]
    keys += ["cluster.block_rows=4", "cluster.max_concurrent_rows=16", f"model.engine.dtype={options.dtype}"]
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label in ("a", "b"):
            finish(start(folder / label, keys), folder / label)
        rounds_left = options.rounds
        runs: list[dict[str, Any]] = []
        while rounds_left:
            run = folder / f"disturbed-{len(runs)}"
            killed = disturb(run, keys, rounds_left, dice)
            rounds_left -= sum(killed.values())
            runs.append({"killed": dict(killed), **compared(folder / "a", run)})
            print(json.dumps(runs[-1]), file=sys.stderr)
        undisturbed = compared(folder / "a", folder / "b")
    result = {"benchmark": "faults", "abstracts": options.limit, "rounds": options.rounds, "dtype": options.dtype}
    result |= {"runs": runs, "undisturbed_twice": undisturbed, "versions": versions()}
    print(json.dumps(result))


def start(run: Path, keys: list[str]) -> subprocess.Popen[bytes]:
    """Start the command, which resumes its run if there is one."""
    command = [sys.executable, "-m", "kailin_ray", "distill", f"out={run}", *keys]
    with run.with_suffix(".said").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait for a command to end. Raises ``RuntimeError`` if it failed."""
    if process.wait():
        log_end = run.with_suffix(".said").read_text()[-3_000:]
        raise RuntimeError(f"distill ended with {process.returncode}: {log_end}")


def disturb(run: Path, keys: list[str], rounds: int, dice: random.Random) -> Counter[str]:
    """Kill driver and engine in turn for ``rounds`` kills or until the run is complete; then let it end."""
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
    """Return the processes of a driver's vLLM engines."""
    processes = []
    for child in psutil.Process(driver).children(recursive=True):
        try:
            if "EngineCore" in " ".join(child.cmdline()):
                processes.append(child)
        except psutil.Error:
            continue
    return processes


def compared(undisturbed: Path, run: Path) -> dict[str, Any]:
    """Count how a run's records differ from those of an undisturbed run."""
    expected, observed = rows(undisturbed), rows(run)
    both = [(expected[pmid][0], observed[pmid][0]) for pmid in expected.keys() & observed.keys()]
    manifest = read_json(run / "manifest.json")
    return {
        "rows": len(observed),
        "lost": len(expected.keys() - observed.keys()),
        "doubled": sum(len(copies) > 1 for copies in observed.values()),
        "statuses": dict(Counter(row["status"] for copies in observed.values() for row in copies)),
        "engine_died": sum(row["reason"] == "engine_died" for copies in observed.values() for row in copies),
        "other_status": sum(a["status"] != b["status"] for a, b in both),
        "other_text": sum(text(a) != text(b) for a, b in both),
        "sessions": manifest["sessions"],
        "restarts": manifest["restarts"],
    }


def rows(run: Path) -> dict[int, list[dict[str, Any]]]:
    """Return a run's records by PMID."""
    by_pmid: dict[int, list[dict[str, Any]]] = {}
    for row in records(run).to_table(columns=["pmid", "status", "reason", "candidates", "answer"]).to_pylist():
        by_pmid.setdefault(row["pmid"], []).append(row)
    return by_pmid


def text(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the texts of a row that the models wrote."""
    return row["answer"], [candidate["question"] for candidate in row["candidates"] or []]


if __name__ == "__main__":
    main()
