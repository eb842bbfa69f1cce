"""Run the real refinement loop on a small machine, with given numbers of training and held-out abstracts.

    python benchmarks/evidence/refinement.py demo/documents refined --train 300 --held-out 100 \
        index=demo/index mesh=assets/mesh.tsv retrieval=brief question.data.path=ori_pqal.json \
        question.exclude=[test_ground_truth.json]

One abstract in ten is held out by its PMID. A comparison of two sets of agents needs about a hundred held-out
abstracts, and distilling a thousand abstracts twice takes a small machine hours. So this script writes documents next
to `refined` in which held-out abstracts are over-represented. They come first, and only they are distilled again.
Everything else is the `refine` command with the given keys. Prints one JSON: the figures before and after each
training, the comparison, and seconds.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kailin_ray.dataset.splits import is_held_out
from kailin_ray.io.files import read_json, write_json

FEWEST_WORDS = 60
ADAPTER = ("task", "examples", "steps", "before", "after", "seconds_of_last_session", "versions")
RUN = ("num_documents", "num_by_status", "num_by_reason", "evaluation", "seconds", "engines")


def main() -> None:
    """Write the documents, run the loop, print one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, help="made by `select`")
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument("--all-again", action="store_true", help="distil all with the adapters, not those alone")
    options, keys = parser.parse_known_args()
    documents = options.out.with_name(f"{options.out.name}-documents")
    if not documents.exists():
        write_sample(options.documents, documents, options.train, options.held_out)
    started = time.monotonic()
    command = [sys.executable, "-m", "kailin_ray", "refine", f"out={options.out}", f"documents={documents}", *keys]
    if not options.all_again:
        command.append(f"refined.limit={options.held_out}")
    subprocess.run(command, check=True, stdout=sys.stderr)
    print(json.dumps(told(options.out) | {"seconds_of_this_call": round(time.monotonic() - started)}, indent=1))


def write_sample(source: Path, out: Path, num_train: int, num_held_out: int) -> None:
    """Write a folder of documents: a random sample of the documents of another folder."""
    rows = pa.concat_tables([pq.read_table(path) for path in sorted(source.glob("part-*.parquet"))])
    positions = list(range(len(rows)))
    random.Random(0).shuffle(positions)
    pmids, abstracts = rows["pmid"].to_pylist(), rows["abstract"].to_pylist()
    positions = [
        row for row in positions if len((abstracts[row] or "").split()) >= FEWEST_WORDS and len(rows["mesh"][row])
    ]
    to_train = [row for row in positions if not is_held_out(pmids[row])][:num_train]
    sample = [*[row for row in positions if is_held_out(pmids[row])][:num_held_out], *to_train]
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(rows.take(pa.array(sample)), partial / "part-00000.parquet")
    # The descriptors' counts stay those of the source: a sample does not show how informative a descriptor is.
    shutil.copyfile(source / "descriptors.json", partial / "descriptors.json")
    manifest = read_json(source / "manifest.json")
    changed = {"id": f"{manifest['id'][:24]}-{num_train}-{num_held_out}"}
    write_json(
        partial / "manifest.json", manifest | changed | {"num_documents": len(sample), "num_with_mesh": len(sample)}
    )
    partial.rename(out)


def told(out: Path) -> dict[str, Any]:
    """Return the figures from the manifests and comparisons of the loop's folders."""
    by_folder: dict[str, Any] = {}
    for note in sorted(out.glob("**/manifest.json")):
        manifest, name = read_json(note), note.parent.relative_to(out).as_posix()
        if manifest["kind"] in ("adapter", "model"):
            by_folder[name] = {key: manifest[key] for key in ADAPTER}
        elif manifest["kind"] == "run":
            by_folder[name] = {key: manifest[key] for key in RUN}
    for comparison in sorted(out.glob("round-*/comparison/comparison.json")):
        by_folder[comparison.parent.relative_to(out).as_posix()] = read_json(comparison)
    return by_folder


if __name__ == "__main__":
    main()
