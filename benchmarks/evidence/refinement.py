"""The refinement loop for real, on a small machine: so many abstracts to learn from, and so many that are held out.

    python benchmarks/evidence/refinement.py demo/documents refined --train 300 --held-out 100 \
        index=demo/index mesh=assets/mesh.tsv retrieval=brief question.data.path=ori_pqal.json \
        question.exclude=[test_ground_truth.json]

One abstract in ten is held out by its PMID. To tell one set of agents from another takes a hundred of them, and to
distil a thousand abstracts twice takes a small machine hours: so the held-out ones are over-represented in the
documents that this writes beside `refined`; they come first, and are all that is distilled again. All else is the
`refine` command with the keys given. Prints one JSON: what was measured before and after each training, the comparison,
and seconds.
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
    asked, keys = parser.parse_known_args()
    documents = asked.out.with_name(f"{asked.out.name}-documents")
    if not documents.exists():
        write_sample(asked.documents, documents, asked.train, asked.held_out)
    started = time.monotonic()
    command = [sys.executable, "-m", "kailin_ray", "refine", f"out={asked.out}", f"documents={documents}", *keys]
    if not asked.all_again:
        command.append(f"refined.limit={asked.held_out}")
    subprocess.run(command, check=True, stdout=sys.stderr)
    print(json.dumps(told(asked.out) | {"seconds_of_this_call": round(time.monotonic() - started)}, indent=1))


def write_sample(source: Path, out: Path, num_train: int, num_held_out: int) -> None:
    """A folder of documents: some of those of another one, drawn by chance."""
    rows = pa.concat_tables([pq.read_table(part) for part in sorted(source.glob("part-*.parquet"))])
    places = list(range(len(rows)))
    random.Random(0).shuffle(places)
    pmids, abstracts = rows["pmid"].to_pylist(), rows["abstract"].to_pylist()
    places = [at for at in places if len((abstracts[at] or "").split()) >= FEWEST_WORDS and len(rows["mesh"][at])]
    learned = [at for at in places if not is_held_out(pmids[at])][:num_train]
    kept = [*[at for at in places if is_held_out(pmids[at])][:num_held_out], *learned]
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(rows.take(pa.array(kept)), partial / "part-00000.parquet")
    # The descriptors' counts stay the source's: how informative one is, a sample does not say.
    shutil.copyfile(source / "descriptors.json", partial / "descriptors.json")
    about = read_json(source / "manifest.json")
    changed = {"id": f"{about['id'][:24]}-{num_train}-{num_held_out}"}
    write_json(partial / "manifest.json", about | changed | {"num_documents": len(kept), "num_with_mesh": len(kept)})
    partial.rename(out)


def told(out: Path) -> dict[str, Any]:
    """What the loop's folders say of themselves."""
    found: dict[str, Any] = {}
    for note in sorted(out.glob("**/manifest.json")):
        made, name = read_json(note), note.parent.relative_to(out).as_posix()
        if made["kind"] in ("adapter", "model"):
            found[name] = {key: made[key] for key in ADAPTER}
        elif made["kind"] == "run":
            found[name] = {key: made[key] for key in RUN}
    for comparison in sorted(out.glob("round-*/comparison/comparison.json")):
        found[comparison.parent.relative_to(out).as_posix()] = read_json(comparison)
    return found


if __name__ == "__main__":
    main()
