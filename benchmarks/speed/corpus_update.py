"""Update a made-up corpus, with its files in different orders, and compare the documents with the expected documents.

    python benchmarks/speed/corpus_update.py --sizes 25000 50000 100000

For each size, the benchmark writes PubMed XML with this many records in baseline and update files: new versions,
revisions, retractions, deletions, and deletions that are reversed. The real command line ingests it (a) all files at
once, (b) the baseline, then the update files together, (c) file by file in a random order. The expected documents are
kept in a dict while the files are written. Prints JSON: documents, whether each way produced exactly these, seconds,
and the largest memory of the driver and of any worker (MiB).
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds

BASELINE_FILES, UPDATE_FILES = 4, 4
WORDS = (
    "cells insulin patients receptor growth mice treatment protein serum binding acid rats plasma liver effect".split()
)


@dataclass
class Corpus:
    """The files and their final content: the last row of each PMID and version, None for a deletion."""

    folder: Path
    last: dict[tuple[int, int], dict[str, Any] | None] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def write(self, name: str, events: list[tuple[int, int, str]], rng: random.Random) -> None:
        """Write one file. An event is a PMID, a version, and what happens: new, revised, retracted, or deleted."""
        path = self.folder / name
        deleted = [(pmid, version) for pmid, version, kind in events if kind == "deleted"]
        with path.open("w") as sink:
            sink.write("<PubmedArticleSet>\n")
            for pmid, version, kind in events:
                if kind != "deleted":
                    row = {"title": f"{kind} in {name}", "version": version, "retracted": kind == "retracted"}
                    row["abstract"] = " ".join(rng.choices(WORDS, k=150))
                    self.last[pmid, version] = row | {"source_file": name}
                    sink.write(_article(pmid, row))
            listed = "".join(f'<PMID Version="{version}">{pmid}</PMID>' for pmid, version in deleted)
            sink.write(f"<DeleteCitation>{listed}</DeleteCitation>\n" if deleted else "")
            sink.write("</PubmedArticleSet>\n")
        self.last.update(dict.fromkeys(deleted))
        self.files.append(path)

    def expected(self) -> dict[int, dict[str, Any]]:
        """Return the expected documents: the highest version of each PMID that is not deleted."""
        alive = {key: row for key, row in sorted(self.last.items()) if row is not None}
        return {pmid: row for (pmid, _), row in alive.items()}


def _article(pmid: int, row: dict[str, Any]) -> str:
    kind = "Retracted Publication" if row["retracted"] else "Journal Article"
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="{row["version"]}">{pmid}</PMID><Article><ArticleTitle>'
        f"{row['title']}</ArticleTitle><Abstract><AbstractText>{row['abstract']}</AbstractText></Abstract>"
        f"<PublicationTypeList><PublicationType>{kind}</PublicationType></PublicationTypeList></Article><MeshHeadingList>"
        f'<MeshHeading><DescriptorName UI="D{pmid % 500:06}">Descriptor {pmid % 500}</DescriptorName></MeshHeading>'
        "</MeshHeadingList></MedlineCitation></PubmedArticle>\n"
    )


def make(folder: Path, size: int, rng: random.Random) -> Corpus:
    """Write a corpus: two thirds of the records are the baseline, over two million PMIDs; the rest are updates."""
    corpus = Corpus(folder)
    pmids = rng.sample(range(1, 2_000_000), 2 * size // 3 + size // 10)
    baseline, later = pmids[: 2 * size // 3], pmids[2 * size // 3 :]
    share = len(baseline) // BASELINE_FILES
    for number in range(BASELINE_FILES):
        events = [(pmid, 1, "new") for pmid in baseline[number * share : (number + 1) * share]]
        corpus.write(f"pubmed26n{number + 1:04}.xml", events, rng)
    rest = size - share * BASELINE_FILES
    for number in range(UPDATE_FILES):
        events = []
        for _ in range(rest // UPDATE_FILES):
            kind = rng.choices(("new", "revised", "retracted", "deleted", "version"), (30, 45, 5, 15, 5))[0]
            pmid = later.pop() if kind == "new" and later else rng.choice(baseline)
            events.append((pmid, 2 if kind == "version" else 1, "revised" if kind == "version" else kind))
        corpus.write(f"pubmed26n{BASELINE_FILES + number + 1:04}.xml", events, rng)
    return corpus


def ingest(files: list[Path], out: Path) -> dict[str, float]:
    """Run the command; return seconds, and the largest memory of the driver and of any worker."""
    file_list = "[" + ",".join(map(str, files)) + "]"
    command = [sys.executable, "-m", "kailin_ray", "ingest", f"source.path={file_list}", f"out={out}"]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = {"driver": 0.0, "worker": 0.0}
    ended = threading.Event()

    def watch() -> None:
        driver = psutil.Process(process.pid)
        while not ended.wait(0.2):
            try:
                peak["driver"] = max(peak["driver"], driver.memory_info().rss / 2**20)
                for child in driver.children(recursive=True):
                    if "ray::" in " ".join(child.cmdline()):
                        memory = child.memory_full_info().uss / 2**20
                        peak["worker"] = max(peak["worker"], memory)
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    output, _ = process.communicate()
    ended.set()
    thread.join()
    if process.returncode:
        raise SystemExit(output)
    return {"seconds": round(time.monotonic() - started, 1)} | {name: round(mib) for name, mib in peak.items()}


def documents(out: Path) -> dict[int, dict[str, Any]]:
    """Return the documents that were written, by PMID."""
    names = ["title", "version", "retracted", "abstract", "source_file"]
    paths = [str(path) for path in sorted(out.glob("part-*.parquet"))]
    rows = ds.dataset(paths).to_table(columns=["pmid", *names]).to_pylist()
    by_pmid = {row["pmid"]: {name: row[name] for name in names} for row in rows}
    if len(by_pmid) != len(rows):
        raise SystemExit(f"{out}: a PMID stands twice")
    return by_pmid


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[25_000, 50_000, 100_000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sizes = []
    for size in arguments.sizes:
        rng = random.Random(arguments.seed)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            corpus = make(folder, size, rng)
            expected = corpus.expected()
            shuffled = rng.sample(corpus.files, len(corpus.files))
            orders = {
                "at once": [corpus.files],
                "baseline, then updates": [corpus.files[:BASELINE_FILES], corpus.files[BASELINE_FILES:]],
                "one by one, shuffled": [[path] for path in shuffled],
            }
            ways = {}
            for way, groups in orders.items():
                out = folder / way.partition(",")[0].replace(" ", "_")
                runs = [ingest(group, out) for group in groups]
                ways[way] = {
                    "exact": documents(out) == expected,
                    "seconds": [run["seconds"] for run in runs],
                    "driver_mib": max(run["driver"] for run in runs),
                    "worker_mib": max(run["worker"] for run in runs),
                    "changes": [
                        update["changes"] for update in json.loads((out / "manifest.json").read_text())["updates"]
                    ],
                }
            sizes.append({"records": size, "documents": len(expected), **ways})
    print(json.dumps(sizes))
    if not all(figures[way]["exact"] for figures in sizes for way in figures if isinstance(figures[way], dict)):
        raise SystemExit("not what must come out")


if __name__ == "__main__":
    main()
