import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.corpus.changes import find_changes
from kailin_ray.corpus.documents import (
    Descriptors,
    Documents,
    SourceFile,
    add_descriptors,
    resume_documents,
    write_descriptors,
)
from kailin_ray.corpus.ingest.job import _bucket_bits, _check_size, new_files
from kailin_ray.corpus.ingest.merge import last_words, merge_bucket
from kailin_ray.corpus.ingest.parse import BUCKET_BITS, FileReport, deal_file
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import updating
from kailin_ray.io.manifests import write_manifest
from tests.conftest import Command
from tests.support.manifests import documents_manifest

pytestmark = pytest.mark.process("Ray")  # its commands start no engine

ARTICLE = (
    '<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><Article><ArticleTitle>{title}'
    "</ArticleTitle><Abstract><AbstractText>Text.</AbstractText></Abstract>{types}</Article><MeshHeadingList><MeshHeading>"
    '<DescriptorName UI="{ui}">Name of {ui}</DescriptorName></MeshHeading></MeshHeadingList>'
    "</MedlineCitation></PubmedArticle>"
)
BARE = (
    '<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article><ArticleTitle>Bare</ArticleTitle>'
    "</Article></MedlineCitation></PubmedArticle>"
)
RETRACTED = "<PublicationTypeList><PublicationType>Retracted Publication</PublicationType></PublicationTypeList>"


def made(folder: Path, name: str, *parts: str) -> Path:
    path = folder / name
    path.write_text(f"<PubmedArticleSet>{''.join(parts)}</PubmedArticleSet>")
    return path


def article(pmid: int, title: str, version: int = 1, ui: str = "D1", retracted: bool = False) -> str:
    return ARTICLE.format(pmid=pmid, title=title, version=version, ui=ui, types=RETRACTED if retracted else "")


def delete(*pmids: int) -> str:
    listed = "".join(f'<PMID Version="1">{pmid}</PMID>' for pmid in pmids)
    return f"<DeleteCitation>{listed}</DeleteCitation>"


def take(out: Path, files: list[Path], number: int, bits: int = BUCKET_BITS) -> dict[str, Any]:
    """What ingest does with files, without Ray: both passes, and the new parts in their places."""
    dealt = out.with_name("dealt")
    reports = [deal_file({"path": str(path)}, str(dealt)) for path in files]
    assert [report["damaged"] for report in reports] == [""] * len(files)
    counts: Counter[str] = Counter(citations=sum(report["citations"] for report in reports))
    changes: Counter[str] = Counter()
    descriptors: Descriptors = {}
    if (out / "descriptors.json").exists():
        descriptors = json.loads((out / "descriptors.json").read_text())
    with updating(out) as folder:
        for bucket in sorted({b >> (bits - BUCKET_BITS) for report in reports for b in report["buckets"]}):
            item = {"bucket": bucket, "bits": bits, "dealt": [str(dealt / f"{path.name}.parquet") for path in files]}
            report = merge_bucket(item, str(out), str(folder), number)
            counts.update(report["counts"])
            changes.update(report["changes"])
            add_descriptors(descriptors, report["descriptors"])
        write_descriptors(folder, descriptors)
        write_manifest(folder, documents_manifest(number))
    return {"counts": dict(counts), "changes": dict(changes)}


def rows(out: Path) -> list[dict[str, Any]]:
    found = [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert len({row["pmid"] for row in found}) == len(found)
    return found


def titles(out: Path) -> dict[int, str]:
    return {row["pmid"]: row["title"] for row in rows(out)}


@pytest.mark.parametrize("spread", [1, 50_000])  # one bucket, and one for each PMID
def test_the_latest_version_wins_and_deletions_are_honoured(tmp_path: Path, spread: int) -> None:
    pmid = [number * spread for number in range(10)]
    first = made(
        tmp_path, "pubmed1.xml",
        article(pmid[1], "old"), article(pmid[2], "deleted later"), article(pmid[3], "v1"), article(pmid[3], "v2", 2),
        article(pmid[4], "kept"), article(pmid[5], "deleted, then back"), article(pmid[6], "deleted in its own file"),
        delete(pmid[6]), BARE.format(pmid=pmid[7]),
    )  # fmt: skip
    second = made(
        tmp_path,
        "pubmed2.xml",
        article(pmid[1], "new"),
        delete(pmid[2], pmid[5], pmid[9]),
        article(pmid[3], "v1 revised"),
    )
    third = made(tmp_path, "pubmed3.xml", article(pmid[5], "back"))
    report = take(tmp_path / "out", [first, second, third], 1)
    assert titles(tmp_path / "out") == {
        pmid[1]: "new",
        pmid[3]: "v2",
        pmid[4]: "kept",
        pmid[5]: "back",
        pmid[7]: "Bare",
    }
    # Citations: 8 of the first file, 2 of the second, 1 of the third.
    assert report["counts"] == {"citations": 11, "documents": 5, "deleted": 2, "with_mesh": 4}


def test_an_update_says_what_it_changed_and_touches_nothing_else(tmp_path: Path) -> None:
    out, far = tmp_path / "out", 1 << 20
    take(
        out,
        [
            made(tmp_path, "pubmed1.xml", *(article(n, f"title {n}") for n in range(1, 8))),
            made(tmp_path, "pubmed2.xml", article(far, "far away")),
        ],
        1,
    )
    assert not (out / "changes").exists()
    untouched = (out / f"part-{far >> BUCKET_BITS:05}.parquet").stat().st_mtime_ns
    update = made(
        tmp_path, "pubmed3.xml",
        article(1, "another title"), article(2, "title 2"), article(3, "title 3", ui="D2"), delete(4),
        article(5, "title 5", retracted=True), article(9, "new"),
    )  # fmt: skip
    report = take(out, [update], 2)
    assert report["changes"] == {"revised": 2, "retracted": 1, "deleted": 1, "new": 1}
    changed = {row["pmid"]: row for row in pq.read_table(out / "changes" / "0002").to_pylist()}
    assert {pmid: (row["change"], row["fields"]) for pmid, row in changed.items()} == {
        1: ("revised", ["title"]), 3: ("revised", ["mesh"]), 4: ("deleted", []),
        5: ("retracted", ["publication_types", "retracted"]), 9: ("new", []),
    }  # fmt: skip
    assert (out / f"part-{far >> BUCKET_BITS:05}.parquet").stat().st_mtime_ns == untouched
    assert json.loads((out / "descriptors.json").read_text()) == {
        "D1": {"name": "Name of D1", "documents": 7}, "D2": {"name": "Name of D2", "documents": 1},
    }  # fmt: skip
    assert find_changes(Documents.open(out), 1, ["title"]).tolist() == [1, 4]
    assert find_changes(Documents.open(out), 1, ["title", "mesh", "retracted"]).tolist() == [1, 3, 4, 5]
    assert find_changes(Documents.open(out), 2, ["title"]).tolist() == []


def test_a_part_whose_last_document_goes_is_left_empty(tmp_path: Path) -> None:
    out = tmp_path / "out"
    take(out, [made(tmp_path, "pubmed1.xml", article(1, "a"), article(1 << 20, "b"))], 1)
    take(out, [made(tmp_path, "pubmed2.xml", delete(1 << 20))], 2)
    assert titles(out) == {1: "a"}
    # A version given once more, by a file that comes late but stands before the deletion, stays deleted.
    take(out, [made(tmp_path, "pubmed1b.xml", article(1 << 20, "b once more"))], 3)
    assert titles(out) == {1: "a"}
    take(out, [made(tmp_path, "pubmed3.xml", article(1 << 20, "b anew"))], 4)
    assert titles(out) == {1: "a", 1 << 20: "b anew"}


EVENTS = st.lists(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 1 << 18]), st.integers(1, 2), st.sampled_from("dab")), min_size=1, max_size=4
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=25)
@given(EVENTS, st.randoms(use_true_random=False))
def test_the_order_in_which_files_are_taken_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, events: list[list[tuple[int, int, str]]], random: Any
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    files = []
    for number, file in enumerate(events):
        parts = [
            f'<DeleteCitation><PMID Version="{v}">{pmid}</PMID></DeleteCitation>'
            if word == "d"
            else article(pmid, word, v)
            for pmid, v, word in file
        ]
        files.append(made(folder, f"pubmed{number}.xml", *parts))
    take(folder / "at_once", files, 1)
    random.shuffle(files)
    for number, path in enumerate(files, start=1):
        take(folder / "one_by_one", [path], number)
    # An independent count: the last word on each version, then the highest version.
    last = {(pmid, v): word for file in events for pmid, v, word in file}
    expected = {pmid: word for (pmid, _), word in sorted(last.items()) if word != "d"}
    assert titles(folder / "at_once") == titles(folder / "one_by_one") == expected
    assert rows(folder / "at_once") == rows(folder / "one_by_one")


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 3), st.booleans()), min_size=1, max_size=30)
)
def test_last_words_do_not_depend_on_the_order_of_rows(events: list[tuple[int, int, int, bool]]) -> None:
    names = ("pmid", "version", "source_file", "deleted")
    table = pa.table(
        {name: [str(row[at]) if name == "source_file" else row[at] for row in events] for at, name in enumerate(names)}
        | {"place": list(range(len(events))), "cited": [not row[3] for row in events]}
    )
    shuffled = table.take(np.random.default_rng(0).permutation(len(events)))
    results = []
    for each in (table, shuffled):
        documents, others, cited = last_words(each)
        results.append(
            [each.take(pa.array(documents)).to_pylist(), each.take(pa.array(others)).to_pylist(), cited.tolist()]
        )
    assert results[0] == results[1]
    versions = {(row[0], row[1]) for row in events}
    assert len(results[0][0]) + len(results[0][1]) == len(versions)


def test_a_damaged_file_gives_nothing_at_all(tmp_path: Path) -> None:
    path = made(tmp_path, "cut.xml", *(article(i, "x") for i in range(1, 3_000)))
    path.write_bytes(path.read_bytes()[:-40])
    report = deal_file({"path": str(path)}, str(tmp_path / "dealt"))
    assert "cut.xml" in report["damaged"]
    assert not list((tmp_path / "dealt").rglob("*"))


def test_what_is_no_citation_is_counted_and_leaves_no_bucket(tmp_path: Path) -> None:
    path = made(tmp_path, "books.xml", "<PubmedBookArticle/><PubmedArticle/>")
    report = deal_file({"path": str(path)}, str(tmp_path / "dealt"))
    assert (report["damaged"], report["skipped"], report["buckets"]) == ("", {"book": 1, "malformed": 1}, [])


def test_a_file_that_was_parsed_is_not_parsed_again_unless_it_changed(tmp_path: Path) -> None:
    path = made(tmp_path, "pubmed1.xml", article(1, "a"))
    dealt = tmp_path / "dealt"
    assert deal_file({"path": str(path)}, str(dealt)) == deal_file({"path": str(path)}, str(dealt))
    (dealt / "pubmed1.xml.parquet").unlink()
    assert deal_file({"path": str(path)}, str(dealt))["citations"] == 1
    assert not (dealt / "pubmed1.xml.parquet").exists()
    made(tmp_path, "pubmed1.xml", article(2, "b"))  # as many bytes
    assert deal_file({"path": str(path)}, str(dealt))["citations"] == 1
    assert pq.read_table(dealt / "pubmed1.xml.parquet")["pmid"].to_pylist() == [2]


def test_an_update_that_was_stopped_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    take(out, [made(tmp_path, "pubmed1.xml", article(1, "a"), article(1 << 20, "b"))], 1)
    update = made(tmp_path, "pubmed2.xml", article(1, "aa"), article(1 << 20, "bb"))
    replace, moved = Path.replace, itertools.count()

    def killed(self: Path, target: Path) -> Path:
        if ".out.update" in str(self) and "partial" not in str(self) and next(moved) == 1:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            take(out, [update], 2)
    # Between two of its files: nobody takes such a folder for whole.
    assert not (out / "manifest.json").exists()
    assert resume_documents(out, "ingest")
    assert titles(out) == {1: "aa", 1 << 20: "bb"}
    # Killed once more, when all had moved and only the empty folder was to go.
    (tmp_path / ".out.update" / "state").mkdir(parents=True)
    assert resume_documents(out, "ingest")
    assert titles(out) == {1: "aa", 1 << 20: "bb"}
    assert not (tmp_path / ".out.update").exists()


def report(num_citations: int, num_buckets: int) -> FileReport:
    return {
        "name": "x", "bytes": 1, "modified": 1, "sha256": "", "columns": None, "damaged": "",
        "citations": num_citations, "skipped": {}, "buckets": list(range(num_buckets)),
    }  # fmt: skip


def test_a_small_corpus_has_few_parts_and_does_not_grow_out_of_them(tmp_path: Path) -> None:
    spread = report(20_000, 1_000)
    bits = _bucket_bits([spread])
    assert len({bucket >> (bits - BUCKET_BITS) for bucket in range(1_000)}) == 1
    assert _bucket_bits([report(30_000_000, 1_200)]) == BUCKET_BITS
    _check_size(tmp_path, [spread], bits, 20_000)
    for number in range(20):  # a corpus of 20 parts may get a file that speaks of one
        (tmp_path / f"part-{number:05}.parquet").touch()
    _check_size(tmp_path, [report(1, 1)], BUCKET_BITS + 1, 300_000)
    for part in tmp_path.glob("part-*"):
        part.unlink()
    with pytest.raises(ConfigError, match="made for few documents"):
        _check_size(tmp_path, [report(1_000_000, 1_000)], bits, 20_000)


def test_a_file_that_has_changed_since_it_was_taken_is_refused(tmp_path: Path) -> None:
    old, new = made(tmp_path, "pubmed1.xml", article(1, "a")), made(tmp_path, "pubmed2.xml", article(1, "a"))
    taken = [SourceFile(name="pubmed1.xml", bytes=old.stat().st_size, sha256="")]
    assert new_files([old, new], None, taken) == [new]
    assert new_files([old, new], None, []) == [old, new]
    made(tmp_path, "pubmed1.xml", article(1, "longer"))
    with pytest.raises(ConfigError, match=r"pubmed1\.xml has .* bytes, but had"):
        new_files([old, new], None, taken)
    with pytest.raises(ConfigError, match="was ingested with other columns"):
        new_files([new], {"pmid": "id"}, [SourceFile(name="pubmed2.xml", bytes=new.stat().st_size, sha256="")])


def test_ingest_again_with_more_files_through_the_command_line(kailin: Command, tmp_path: Path) -> None:
    made(tmp_path, "pubmed1.xml", *(article(n, f"t{n}") for n in range(1, 40)))
    out = tmp_path / "corpus"
    done = kailin("ingest", f"source.path={tmp_path}", f"out={out}")
    assert done.returncode == 0, done.stderr
    made(tmp_path, "pubmed2.xml", article(1, "other"), article(50, "new"), delete(2, 3))
    done = kailin("ingest", f"source.path={tmp_path}", f"out={out}")
    assert done.returncode == 0, done.stderr
    assert "update 2: 1 new, 1 revised, 0 retracted, 2 deleted; 1 parts rewritten" in done.stdout
    assert titles(out) == {n: f"t{n}" for n in range(4, 40)} | {1: "other", 50: "new"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["num_documents"], manifest["num_citations"]) == (38, 41)
    assert manifest["num_left_out"] == {"superseded": 1, "deleted": 2}
    assert [file["name"] for file in manifest["files"]] == ["pubmed1.xml", "pubmed2.xml"]
    again = kailin("ingest", f"source.path={tmp_path}", f"out={out}")
    assert again.returncode == 0
    assert "made already, from these files" in again.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_texts_that_were_escaped_twice_are_unescaped_and_counted(kailin: Command, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    made(tmp_path, "pubmed1.xml", article(1, "P &amp;lt; 0.05"), article(2, "p &lt; 0.05"), "<PubmedBookArticle/>")
    for number, expected in ((1, {1: "P < 0.05", 2: "p < 0.05"}), (2, {3: "Of E. coli"})):
        done = kailin("ingest", f"source.path={tmp_path}", f"out={out}")
        assert done.returncode == 0, done.stderr
        assert f"citations whose texts were escaped twice, and are unescaped: {number}" in done.stdout
        manifest = json.loads((out / "manifest.json").read_text())
        assert (manifest["num_unescaped"], manifest["num_skipped"]) == (number, {"book": 1})
        assert expected.items() <= titles(out).items()
        made(tmp_path, "pubmed2.xml", article(3, "Of &lt;i&gt;E. coli&lt;/i&gt;"))
