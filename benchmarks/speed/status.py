"""Measure what `status` costs on runs of different sizes. Prints one JSON line last.

    python benchmarks/speed/status.py [--records 100000 1000000 10000000] [--runs 5]

The records are made up and in merged files. Status and reason are as in real records; all other columns are null.
*seconds* is the time of the whole command with its start (median and all values). *memory* is its process's maximum.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.dataset.records import MERGED, ROWS_PER_FILE, ROWS_PER_GROUP
from kailin_ray.schema import REASONS, RECORDS
from kailin_ray.versions import versions


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    sizes = []
    for number in options.records:
        with tempfile.TemporaryDirectory() as folder:
            made(Path(folder), number)
            sizes.append(measured(Path(folder), number, options.runs))
            print(json.dumps(sizes[-1]), file=sys.stderr)
    print(json.dumps({"benchmark": "status", "sizes": sizes, "cores": os.cpu_count(), "versions": versions()}))


def made(run: Path, number: int) -> None:
    """Write a run's folder with ``number`` records."""
    (run / "records").mkdir()
    (run / "sessions").mkdir()
    (run / "run.json").write_text("{}")
    random = np.random.default_rng(0)
    names = list(REASONS)
    nulls = {field.name: pa.nulls(ROWS_PER_FILE, field.type) for field in RECORDS}
    for start in range(0, number, ROWS_PER_FILE):
        rows = min(ROWS_PER_FILE, number - start)
        accepted = random.random(rows) < 0.8
        reasons = [
            None if ok else names[n] for ok, n in zip(accepted, random.integers(0, len(names), rows), strict=True)
        ]
        columns = {name: column[:rows] for name, column in nulls.items()}
        columns |= {"status": pa.array(np.where(accepted, "ok", "rejected")), "reason": pa.array(reasons)}
        path = run / "records" / f"{MERGED}{start:09}.parquet"
        with pq.ParquetWriter(path, RECORDS, compression="zstd") as writer:
            writer.write_table(pa.table(columns, schema=RECORDS), row_group_size=ROWS_PER_GROUP)


def measured(run: Path, number: int, runs: int) -> dict[str, object]:
    """Run the command ``runs`` times on a run's folder; return the figures."""
    seconds = []
    for _ in range(runs):
        began = time.monotonic()
        command = [sys.executable, "-m", "kailin_ray", "status", f"run={run}"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seconds.append(round(time.monotonic() - began, 2))
        assert f"{number:,} abstracts" in output, output
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"records": number, "seconds": statistics.median(seconds), "all": seconds, "memory_mb": round(peak / 1e6)}


if __name__ == "__main__":
    main()
