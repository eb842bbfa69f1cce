"""PubMed XML beside pubmed_parser, in the same run: records a second and core, memory, and two processes beside one.

    python benchmarks/speed/ingest.py pubmed20n0014.xml.gz pubmed21n1298.xml.gz --peer <folder of pubmed_parser>

``ours`` makes Arrow tables of all columns of ``documents``, as ingest does before it sorts them; ``citations`` stops at
Python objects, as pubmed_parser does. ``floor`` is lxml's iterparse that looks at nothing, ``unpack`` is Python's gzip
alone. Speeds are per second of CPU, medians of ``--runs``, each in a process of its own, one after another in turns, so
that a noisy machine is noisy for all. Memory is the most that a process took over its imports; ``thrice`` is a file of
the first one's records, three times. ``--peer``: folders to import pubmed_parser 0.5.1 from (it is no dependency), with
: between. Prints one JSON line.
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
    """Bytes."""
    with gzip.open(path) as stream:
        return sum(len(part) for part in iter(lambda: stream.read(READ), b""))


def floor(path: Path) -> int:
    """Records."""
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
    """Records."""
    from kailin_ray.corpus.readers.pubmed_xml import read_citations

    return sum(1 for _ in read_citations(path, Counter()))


def ours(path: Path) -> int:
    """Records."""
    from kailin_ray.corpus.ingest.parse import tables
    from kailin_ray.corpus.readers.pubmed_xml import read_citations

    return sum(table.num_rows for table in tables(read_citations(path, Counter()), path.name))


def peer(path: Path) -> int:
    """Records."""
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
    """In a process of its own: print number, CPU seconds, and MiB of memory over what the imports took."""
    # Imports are not what is measured: once over a tiny file.
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
    """A file of another one's records, three times. Line by line: a child's memory counts from its parent's."""
    with gzip.open(made, "wb", compresslevel=1) as sink:
        sink.write(b"<PubmedArticleSet>\n")
        for _ in range(3):
            with gzip.open(path) as stream:
                sink.writelines(line for line in stream if not line.startswith((b"<", b"\xef")))
        sink.write(b"</PubmedArticleSet>\n")


def start(way: str, path: Path, folder: str | None) -> subprocess.Popen[str]:
    """A process that measures."""
    command = [sys.executable, __file__, str(path), "--only", way, *(["--peer", folder] if folder else [])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, float]:
    """What a process measured."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a measurement failed with {process.returncode}")
    return dict(json.loads(output.splitlines()[-1]))


def two_beside_one(path: Path, folder: str | None) -> float:
    """Throughput of two processes at the same time over that of one, by the clock."""
    started = time.monotonic()
    result(start("ours", path, folder))
    one = time.monotonic() - started
    started = time.monotonic()
    for process in [start("ours", path, folder) for _ in range(2)]:
        result(process)
    return 2 * one / (time.monotonic() - started)


def compare(path: Path, num_runs: int, folder: str | None) -> dict[str, Any]:
    """All ways over one file, in turns."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(num_runs):
        for way in WAYS:
            found[way].append(result(start(way, path, folder)))
    rate = {way: median(one["number"] / one["seconds"] for one in runs) for way, runs in found.items()}
    return {
        "file": path.name,
        "records": found["ours"][0]["number"],
        "unpack_mb_per_s": round(rate.pop("unpack") / 1e6),
        "records_per_s": {way: round(value) for way, value in rate.items()},
        "ours_to_pubmed_parser": round(rate["ours"] / rate["pubmed_parser"], 2),
        "citations_to_pubmed_parser": round(rate["citations"] / rate["pubmed_parser"], 2),
        "ours_to_floor": round(rate["ours"] / rate["floor"], 2),
        "mib": {way: max(one["mib"] for one in runs) for way, runs in found.items()},
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
