"""From a corpus to the documents that are worked on, through the command line."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset.records import records
from kailin_ray.io.files import read_json
from kailin_ray.schema import REMOVED
from tests.conftest import MESH, ROOT, Command
from tests.corpus.ingest.test_job import delete, made

pytestmark = pytest.mark.process("Ray")  # its commands start no engine

QUESTION = "Does early administration of tranexamic acid reduce mortality in patients with traumatic brain injury?"
NEAR = "Does an early administration of tranexamic acid reduce the mortality in patients with traumatic brain injury?"
TEXT = (
    "We studied how often the {0} of the heart changes its rhythm when the animals were given the drug in question, "
    "and measured the pressure of the blood, the flow through the kidneys and the output of the {0} each hour for two "
    "days. There was no difference between the groups, but those which had been given more ate less and slept more."
)
OPINION = "it was the opinion of the committee that nothing at all could be done about it any more"


def article(
    pmid: int, abstract: str, *, title: str = "A title.", ui: str = "D009369", types: str = "", year: int = 1990
) -> str:
    kinds = "".join(f"<PublicationType>{kind}</PublicationType>" for kind in types.split("|") if kind)
    body = f"<Abstract><AbstractText>{abstract}</AbstractText></Abstract>" if abstract else ""
    heading = f'<MeshHeading><DescriptorName UI="{ui}">Name of {ui}</DescriptorName></MeshHeading>'
    headings = f"<MeshHeadingList>{heading}</MeshHeadingList>" if ui else ""
    return (
        f'<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article><Journal><JournalIssue><PubDate>'
        f"<Year>{year}</Year></PubDate></JournalIssue></Journal><ArticleTitle>{title}</ArticleTitle>{body}"
        f"<Language>eng</Language>"
        f"<PublicationTypeList>{kinds}</PublicationTypeList></Article>{headings}</MedlineCitation></PubmedArticle>"
    )


def own_text(number: int) -> str:
    """An abstract that no other is like."""
    return " ".join(f"word{number}x{place}" for place in range(60))


ARTICLES = {
    1: article(1, TEXT.format("left chamber")),
    2: article(2, ""),
    3: article(3, own_text(3), types="Retracted Publication"),
    4: article(4, own_text(4), types="Journal Article|Comment"),
    5: article(5, own_text(5), ui=""),
    6: article(6, TEXT.format("left chamber").upper()),  # the same words as 1
    7: article(7, TEXT.format("left chamber").replace("two days", "three days")),  # nearly
    8: article(8, own_text(8)),  # the benchmark's, by its PMID
    9: article(9, own_text(9), title=NEAR),
    10: article(10, f"{own_text(10)} {OPINION} today."),
    11: article(11, own_text(11), ui="D003920"),  # Diabetes Mellitus: not under Neoplasms
    12: article(12, own_text(12), year=1950),
    13: article(13, own_text(13)),
    14: article(14, own_text(14), ui="D008175"),  # Lung Neoplasms
    15: article(15, f"{own_text(16)} end"),  # nearly a benchmark's, and the first of the two
    16: article(16, own_text(16)),
}  # fmt: skip
EXPECTED = {
    2: "no_abstract", 3: "retracted", 4: "publication_type", 5: "no_mesh", 6: "duplicate", 7: "near_duplicate",
    8: "benchmark_pmid", 9: "benchmark_question", 10: "benchmark_overlap", 11: "not_in_subtree", 12: "year",
    15: "near_duplicate", 16: "benchmark_pmid",
}  # fmt: skip
BENCHMARK = [
    {"pmid": 8, "question": QUESTION},
    {"pmid": 16, "question": "Is it so?"},
    {"pmid": 900, "question": "What did they think of it?",
     "context": f"As is known {OPINION}."},
]  # fmt: skip


def removed(documents: Path) -> dict[int, tuple[str, str]]:
    rows = [
        row for part in sorted((documents / "removed").glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]
    return {row["pmid"]: (row["reason"], row["detail"]) for row in rows}


def kept(documents: Path) -> list[int]:
    return [
        pmid for part in sorted(documents.glob("part-*.parquet")) for pmid in pq.read_table(part)["pmid"].to_pylist()
    ]


def run(kailin: Command, *arguments: Any, code: int = 0) -> str:
    done = kailin(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_every_document_is_selected_or_removed_for_a_reason_and_updates_are_followed(
    kailin: Command, tmp_path: Path
) -> None:
    made(tmp_path, "pubmed1.xml", *ARTICLES.values())
    (tmp_path / "benchmark.json").write_text(json.dumps(BENCHMARK))
    corpus, out = tmp_path / "corpus", tmp_path / "documents"
    run(kailin, "ingest", f"source.path={tmp_path}/pubmed1.xml", f"out={corpus}")
    select = (
        "select", f"corpus={corpus}", f"out={out}", f"mesh={MESH}", "filters.require_mesh=true", "subtree=[Neoplasms]",
        "filters.year_from=1960", f"benchmarks=[{tmp_path}/benchmark.json]",
    )  # fmt: skip
    said = run(kailin, *select)
    assert kept(out) == [1, 13, 14]
    reasons = removed(out)
    assert {pmid: reason for pmid, (reason, _) in reasons.items()} == EXPECTED
    counts = Counter(EXPECTED.values())
    assert all(f"{number}  {reason}: {REMOVED[reason]}" in said for reason, number in counts.items())
    assert reasons[15][1] == "PMID 16, Jaccard 0.98"
    assert reasons[6][1] == "PMID 1, Jaccard 1.00"
    assert "PMID 1, Jaccard 0.8" in reasons[7][1]
    assert reasons[8][1].startswith("benchmark.json, item 8, 1.00")
    assert "tranexamic" in reasons[9][1]
    assert "opinion of the committee" in reasons[10][1]
    manifest = read_json(out / "manifest.json")
    assert (manifest["num_documents"], manifest["num_considered"], manifest["num_with_mesh"]) == (3, 16, 3)
    assert read_json(out / "descriptors.json") == read_json(corpus / "descriptors.json")
    assert "made already" in run(kailin, *select)

    # The corpus goes on: the first of the doubles is deleted, one is retracted, one is new.
    made(
        tmp_path,
        "pubmed2.xml",
        delete(1),
        article(13, own_text(13), types="Retracted Publication"),
        article(20, own_text(20)),
    )
    run(kailin, "ingest", f"source.path={tmp_path}", f"out={corpus}")
    said = run(kailin, *select)
    assert "update 2: 2 new, 0 revised, 0 retracted, 2 deleted" in said
    assert kept(out) == [6, 14, 20]
    assert {pmid: reason for pmid, (reason, _) in removed(out).items()} == {
        pmid: reason for pmid, reason in EXPECTED.items() if pmid != 6
    } | {13: "retracted"}
    assert removed(out)[7][1].startswith("PMID 6,")
    changes = {row["pmid"]: row["change"] for row in pq.read_table(out / "changes" / "0002").to_pylist()}
    assert changes == {1: "deleted", 6: "new", 13: "deleted", 20: "new"}
    assert run(kailin, *select, "filters.min_words=3", code=2).startswith(
        f"kailin_ray: out: {out} was selected with another filters ("
    )
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_selection_of_a_selection_hands_on_what_was_removed(
    kailin: Command, tmp_path: Path, corpus: Path, documents: Path
) -> None:
    chosen = tmp_path / "chosen"
    select = ("select", f"corpus={documents}", f"out={chosen}", f"mesh={MESH}", "sample=stratified", "sample.size=60")
    said = run(kailin, *select)
    assert "second-level MeSH branches; the largest has" in said
    assert len(kept(chosen)) == 60
    reasons = removed(chosen)
    everything = [pmid for part in corpus.glob("part-*.parquet") for pmid in pq.read_table(part)["pmid"].to_pylist()]
    assert sorted([*kept(chosen), *reasons]) == sorted(everything)
    assert {"no_abstract", "not_sampled"} == {reason for reason, _ in reasons.values()}
    sample = read_json(chosen / "manifest.json")["sample"]
    assert sample["num_documents"] == {"before": len(kept(documents)), "after": 60}
    assert sum(row["documents_after"] for row in sample["strata"]["strata"]) == 60
    assert (chosen / "sampling.png").read_bytes().startswith(b"\x89PNG")
    uniform = tmp_path / "uniform"
    run(
        kailin,
        "select",
        f"corpus={documents}",
        f"out={uniform}",
        f"mesh={MESH}",
        "sample=uniform",
        "sample.size=60",
    )
    assert kept(uniform) != kept(chosen)


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        (["sample=uniform", "sample.size=5"], "mesh: missing; sample.size needs the hierarchy"),
        (["sample=stratified", "mesh={mesh}"], "sample.size: missing"),
        (["subtree=[Neoplasmata]", "mesh={mesh}"], "subtree: 'Neoplasmata' is not a descriptor's UI, name or"),
        (["benchmarks=[/nowhere/q.json]"], "benchmarks: /nowhere/q.json does not exist"),
        (["benchmarks=[{mesh}]"], "mesh.tsv"),
        (["filters.year_from=2100"], "no document of"),
        (["out={documents}"], "is the corpus itself"),
    ],
)
def test_what_cannot_be_selected_is_refused_and_leaves_nothing(
    kailin: Command, tmp_path: Path, documents: Path, keys: list[str], fault: str
) -> None:
    given = [key.format(mesh=MESH, documents=documents) for key in keys]
    out = [] if any(key.startswith("out=") for key in given) else [f"out={tmp_path}/out"]
    said = run(kailin, "select", f"corpus={documents}", *out, *given, code=2)
    (line,) = (line for line in said.splitlines() if line.startswith("kailin_ray: "))
    assert fault in line
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".log"] == []


@pytest.mark.slow
def test_a_run_follows_its_documents(kailin: Command, tmp_path: Path, index: Path) -> None:
    text = "Effect of azide on the tissue of the mouse. The effect of azide on the tissue of the mouse was seen {}."
    made(tmp_path, "pubmed1.xml", *(article(n, text.format(n), ui="D003920") for n in range(1, 13)))
    corpus, documents, out = tmp_path / "corpus", tmp_path / "documents", tmp_path / "run"

    def update() -> None:
        run(kailin, "ingest", f"source.path={tmp_path}", f"out={corpus}")
        run(kailin, "select", f"corpus={corpus}", f"out={documents}", "dedup_threshold=null")

    update()
    distil = [
        sys.executable, "-m", "tests.support.distil_with_a_fake_engine", f"documents={documents}", f"index={index}",
        f"mesh={MESH}", f"out={out}", "retrieval=brief", "cluster.block_rows=4", "max_failed_fraction=1",
    ]  # fmt: skip

    def distilled() -> tuple[str, dict[int, str]]:
        done = subprocess.run(distil, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        rows = records(out).to_table(columns=["pmid", "abstract"]).to_pylist()
        assert len({row["pmid"] for row in rows}) == len(rows) == read_json(out / "manifest.json")["num_documents"]
        return done.stdout, {row["pmid"]: row["abstract"] for row in rows}

    _, before = distilled()
    assert sorted(before) == list(range(1, 13))
    changed = [article(2, text.format("anew"), ui="D003920"), delete(3, 4), article(20, text.format(20), ui="D003920")]
    made(tmp_path, "pubmed2.xml", *changed, article(5, text.format(5), ui="D003920"), article(21, ""))
    update()
    said, after = distilled()
    assert "3 records of changed and deleted documents removed" in said
    assert "2 of 11 abstracts to distil" in said
    assert sorted(after) == [1, 2, *range(5, 13), 20]
    assert "anew" in after[2]
    assert {pmid: after[pmid] for pmid in range(5, 13)} == {pmid: before[pmid] for pmid in range(5, 13)}
    assert read_json(out / "manifest.json")["documents"]["num_updates"] == 2
    said, again = distilled()
    assert "complete, nothing to do" in said
    assert again == after
    # What only goes leaves nothing to distil, and yet another run.
    made(tmp_path, "pubmed3.xml", delete(6))
    update()
    said, after = distilled()
    assert sorted(after) == [1, 2, 5, *range(7, 13), 20]
    assert ds.dataset(str(out / "records"), format="parquet").count_rows() == 10

    # What was generated is looked through once more: all of these questions are like the one of a benchmark.
    asked = records(out).to_table(columns=["candidates"]).to_pylist()[0]["candidates"][0]["question"]
    (tmp_path / "benchmark.jsonl").write_text(json.dumps({"question": asked}) + "\n")
    unchecked, checked = tmp_path / "unchecked", tmp_path / "checked"
    run(kailin, "publish", f"run={out}", f"out={unchecked}")
    run(kailin, "publish", f"run={out}", f"out={checked}", f"benchmarks=[{tmp_path}/benchmark.jsonl]")
    num_rows = {
        folder.name: {name: ds.dataset(str(folder / name)).count_rows() for name in ("triples", "rejected", "removed")
                      if (folder / name).exists()} for folder in (unchecked, checked)
    }  # fmt: skip
    # The fake agents' rows end without a preference; what has a benchmark's text ends for that.
    assert num_rows == {name: {"rejected": 10, "removed": 1} for name in ("unchecked", "checked")}
    reasons = [
        set(ds.dataset(str(folder / "rejected")).to_table()["reason"].to_pylist()) for folder in (unchecked, checked)
    ]
    assert "benchmark_question" not in reasons[0]
    assert "benchmark_question" in reasons[1]
    assert ds.dataset(str(checked / "removed")).to_table().to_pylist() == [
        {"pmid": 21, "reason": "no_abstract", "detail": None}
    ]
    rows = ds.dataset(str(checked / "rejected")).to_table().to_pylist()
    leaked = next(row for row in rows if row["reason"] == "benchmark_question")
    assert (leaked["status"], leaked["stage"], leaked["reason"]) == ("rejected", "question", "benchmark_question")
    assert leaked["detail"].startswith("benchmark.jsonl, item 1, ")
    assert "| no_abstract | 1 |" in (checked / "README.md").read_text()
    assert (
        "Questions, contexts and answers were checked for text of `benchmark.jsonl`."
        in (checked / "README.md").read_text()
    )
    assert "- accepted 0, rejected 10, failed 0 abstracts" in (checked / "README.md").read_text()
    assert "Questions, contexts and answers were not checked." in (unchecked / "README.md").read_text()
