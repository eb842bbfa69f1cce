"""Submit a job to a cluster of three nodes on this machine, stop it, submit it again and let it finish.

    python benchmarks/faults/cluster_walk.py demo/documents demo/index assets/mesh.tsv --limit 72

Starts a head and two more nodes with `ray start` and a token, and runs `submit distill` as a user would, with three
engines. It lists where the actors are, stops the job with `ray job stop` once rows are written, submits the same
command again, and counts the records: each document must occur once. Prints one JSON.
"""

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests

from kailin_ray.dataset.records import records
from kailin_ray.versions import versions

RAY = str(Path(sys.executable).with_name("ray"))
NODES = 3
CPUS = 2
"""CPUs that Ray is given on each node, so that no node has room for all engines."""


def main() -> None:
    """Start the cluster, run the walk, print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("mesh", type=Path)
    parser.add_argument("--limit", type=int, default=72)
    parser.add_argument("--port", type=int, default=8365, help="of the dashboard; the head takes the one before it")
    options = parser.parse_args()
    # Killed processes may still write there.
    with (
        tempfile.TemporaryDirectory(prefix="walk-", dir="/tmp", ignore_cleanup_errors=True) as scratch,
        cluster(Path(scratch), options.port),
    ):
        print(json.dumps(walk(options, Path(scratch) / "run") | {"versions": versions()}, indent=1))


@contextmanager
def cluster(scratch: Path, port: int) -> Iterator[None]:
    """Run three nodes that require a token."""
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
    }
    common = ["--block", f"--num-cpus={CPUS}", "--disable-usage-stats", "--object-store-memory=500000000"]
    # A folder for each node, as on separate machines. In a shared folder the nodes would overwrite each other's copy of
    # the job's code.
    folders = [f"--temp-dir={scratch / str(number)}" for number in range(NODES)]
    started = [start(["--head", f"--port={port - 1}", f"--dashboard-port={port}", folders[0], *common])]
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api/version"))
        started += [start([f"--address=127.0.0.1:{port - 1}", folder, *common]) for folder in folders[1:]]
        until(lambda: len(listed("nodes")) == NODES)
        yield
    finally:
        for process in started:
            for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                member.kill()


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    """Run `ray start` in the background."""
    return subprocess.Popen([RAY, "start", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def until(happened: Callable[[], Any], seconds: float = 600) -> Any:
    """Wait until ``happened`` returns something true, and return that. Raises ``TimeoutError``."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen")
        time.sleep(0.5)
    return result


def answers(url: str) -> bool:
    """Whether the dashboard answers."""
    try:
        return requests.get(url, headers=token(), timeout=5).ok
    except requests.ConnectionError:
        return False


def token() -> dict[str, str]:
    """Return the headers that Ray's endpoints require."""
    return {"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"}


def listed(kind: str) -> list[dict[str, Any]]:
    """Return the live nodes or actors of `ray list nodes` or `ray list actors`."""
    done = subprocess.run([RAY, "list", kind, "--format=json", "--limit=1000"], capture_output=True, text=True)
    rows = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip().startswith("[") else []
    return [row for row in rows if row["state"] == "ALIVE"]


def walk(asked: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Submit, list the actors, stop, submit again, count."""
    command = [
        *(sys.executable, "-m", "kailin_ray", "submit", "distill"),
        *("job.stop_seconds=300", f"job.python={sys.executable}"),
        *(f"documents={asked.documents.absolute()}", f"index={asked.index.absolute()}", f"out={run}"),
        *(f"mesh={asked.mesh.absolute()}", f"model.path={Path('assets/smollm2-135m-instruct').absolute()}"),
        *(f"limit={asked.limit}", "retrieval=brief", f"cluster.num_engines={NODES}", "cluster.num_retrievers=null"),
        # Small blocks: otherwise the engine that is ready first would take all of these few abstracts, and Ray would
        # release the other engines.
        *("cluster.block_rows=4", "cluster.max_concurrent_rows=8"),
    ]
    begun = time.monotonic()
    detached = subprocess.run([*command, "job.follow=false"], capture_output=True, text=True, check=True).stdout
    identity = re.findall(r"job (\S+),", detached)[0]
    until(lambda: list((run / "records").glob("*.parquet")) or over(identity))
    if not (run / "records").exists():
        subprocess.run([RAY, "job", "logs", identity], stdout=sys.stderr)
        raise RuntimeError(f"job {identity} ended with no row: {job(identity)['message']}")
    nodes = {row["node_id"]: f"node {number}" for number, row in enumerate(listed("nodes"), start=1)}
    places = Counter(f"{nodes[row['node_id']]}: {row['class_name'].split('(')[0]}" for row in listed("actors"))
    result: dict[str, Any] = {"actors": dict(sorted(places.items()))}
    stopping = time.monotonic()
    subprocess.run([RAY, "job", "stop", identity, "--no-wait"], check=True, stdout=subprocess.DEVNULL)
    until(lambda: over(identity))
    result["stopped"] = {"rows": records(run).count_rows(), "seconds_to_drain": round(time.monotonic() - stopping, 1)}
    done = subprocess.run(command, capture_output=True, text=True)
    rows = records(run).to_table(columns=["pmid", "status"])
    result["finished"] = {
        "exit_code": done.returncode,
        "rows": len(rows),
        "documents": len(set(rows["pmid"].to_pylist())),
        "by_status": dict(Counter(rows["status"].to_pylist())),
        "seconds": round(time.monotonic() - begun, 1),
    }
    print(done.stdout, done.stderr, file=sys.stderr)
    return result


def over(identity: str) -> bool:
    """Whether a job has ended."""
    return job(identity)["status"] in ("STOPPED", "SUCCEEDED", "FAILED")


def job(identity: str) -> dict[str, Any]:
    """Return the cluster's information about a job."""
    url = f"{os.environ['RAY_API_SERVER_ADDRESS']}/api/jobs/{identity}"
    info: dict[str, Any] = requests.get(url, headers=token(), timeout=30).json()
    return info


if __name__ == "__main__":
    main()
