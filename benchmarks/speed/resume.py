"""Measure what a resumed run costs before its work begins: resume state, merging. Prints one JSON line last.

    python benchmarks/speed/resume.py [--ids 1000000 10000000 38000000] [--files 2000]

*load*: the seconds to read the PMIDs of this many made-up records into one sorted array, the largest growth of the
process's memory, and the size of the array. The records are in merged files; all their columns except the PMID are
null. *compact*: the seconds to merge this many small files, and the memory that it took. A small file has 64 records
that are as long as real records. Each measurement runs in a separate process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.dataset.records import MERGED, REPLACES, ROWS_PER_FILE, ROWS_PER_GROUP, compact, load_pmids
from kailin_ray.distill.sink import RecordSink
from kailin_ray.schema import RECORDS
from kailin_ray.versions import versions

ROWS_PER_BLOCK = 64
TEXT = 1_500
"""Characters of an abstract, and of a passage."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000_000, 10_000_000, 38_000_000])
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.one:
            kind, number = options.one.split("=")
            print(json.dumps((load if kind == "load" else merge)(Path(name), int(number))))
            return
    result = {
        "benchmark": "resume",
        "load": [alone(f"load={number}") for number in options.ids],
        "compact": alone(f"compact={options.files}"),
    }
    print(json.dumps(result | {"cores": os.cpu_count(), "versions": versions()}))


def alone(one: str) -> dict[str, Any]:
    """Run one measurement in a separate process; return its figures."""
    done = subprocess.run([sys.executable, __file__, f"--one={one}"], check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(figures), file=sys.stderr)
    return figures


def load(folder: Path, number: int) -> dict[str, Any]:
    """Write ``number`` records, load their PMIDs and return the figures."""
    pmids = np.random.default_rng(0).permutation(number) + 1
    files = range(0, number, ROWS_PER_FILE)
    nulls = {field.name: pa.nulls(ROWS_PER_FILE, field.type) for field in RECORDS}
    for start in files:
        chunk = pa.array(pmids[start : start + ROWS_PER_FILE])
        names = b"\n".join(b"%09d-0123456789abcdef.parquet" % n for n in range(0, len(chunk), ROWS_PER_BLOCK))
        columns = {name: column[: len(chunk)] for name, column in nulls.items()} | {"pmid": chunk}
        with pq.ParquetWriter(folder / f"{MERGED}{start:09}.parquet", RECORDS, compression="zstd") as writer:
            writer.write_table(pa.table(columns, schema=RECORDS), row_group_size=ROWS_PER_GROUP)
            writer.add_key_value_metadata({REPLACES: names})
    # One small file, so that the names that each merged file replaces must be read.
    RecordSink(folder).write([pa.Table.from_pylist([{"pmid": number + 1}], RECORDS)], None)
    del pmids
    with peak() as memory:
        began = time.monotonic()
        loaded = load_pmids(folder)
        seconds = time.monotonic() - began
    assert len(loaded) == number + 1
    assert (np.diff(loaded) == 1).all()
    return {
        "ids": number,
        "files": len(files),
        "seconds": round(seconds, 2),
        "array_mb": round(loaded.nbytes / 1e6),
        "memory_mb": round(memory[0] / 1e6),
    }


def merge(folder: Path, number: int) -> dict[str, Any]:
    """Write ``number`` small files, merge them and return the figures."""
    random = np.random.default_rng(0)
    words = np.array(["".join(chr(97 + c) for c in random.integers(0, 26, n)) for n in random.integers(2, 12, 20_000)])

    def text() -> str:
        return " ".join(words[random.zipf(1.3, TEXT // 7) % len(words)])

    texts = [text() for _ in range(2_000)]
    sink = RecordSink(folder)
    for first in range(0, number * ROWS_PER_BLOCK, ROWS_PER_BLOCK):
        sink.write(
            [pa.Table.from_pylist([record(first + n, texts, random) for n in range(ROWS_PER_BLOCK)], RECORDS)], 0
        )
    size = sum(path.stat().st_size for path in folder.iterdir())
    with peak() as memory:
        began = time.monotonic()
        compact(folder)
        seconds = time.monotonic() - began
    merged = [path.stat().st_size for path in folder.iterdir()]
    return {
        "files": number,
        "records": number * ROWS_PER_BLOCK,
        "merged_files": len(merged),
        "small_mb": round(size / 1e6),
        "merged_mb": round(sum(merged) / 1e6),
        "seconds": round(seconds, 1),
        "memory_mb": round(memory[0] / 1e6),
    }


def record(pmid: int, texts: list[str], random: np.random.Generator) -> dict[str, Any]:
    """Return a record that is as long as a real record: two candidates with four contexts each."""
    chosen = [texts[n] for n in random.integers(0, len(texts), 9)]
    candidates = [
        {
            "agent": "general",
            "question": text[:90],
            "contexts": [{"pmid": pmid, "title": "", "text": passage} for passage in passages],
        }
        for text, passages in ((chosen[1], chosen[1:5]), (chosen[5], chosen[5:]))
    ]
    shown = [{"pmid": pmid, "title": "", "text": text} for text in (chosen[0], *chosen[5:])]
    return {"pmid": pmid, "abstract": chosen[0], "candidates": candidates, "shown": shown, "status": "ok"}


@contextmanager
def peak() -> Iterator[list[int]]:
    """Measure the largest growth, in bytes, of this process's private memory inside the block."""
    process, stop = psutil.Process(), threading.Event()
    before, memory = process.memory_full_info().uss, [0]

    def look() -> None:
        while not stop.wait(0.05):
            memory[0] = max(memory[0], process.memory_full_info().uss - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        memory[0] = max(memory[0], process.memory_full_info().uss - before)
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
