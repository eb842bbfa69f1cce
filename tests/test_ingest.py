from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.errors import ConfigError
from kailin_ray.ingest import deal_file, find_files, latest_rows, merge_bucket

ARTICLE = (
    '<PubmedArticle><MedlineCitation><PMID Version="{version}">{pmid}</PMID><Article><ArticleTitle>{title}'
    "</ArticleTitle><Abstract><AbstractText>Text.</AbstractText></Abstract></Article><MeshHeadingList><MeshHeading>"
    '<DescriptorName UI="D1">One</DescriptorName></MeshHeading></MeshHeadingList></MedlineCitation></PubmedArticle>'
)
BARE = (
    '<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article><ArticleTitle>Bare</ArticleTitle>'
    "</Article></MedlineCitation></PubmedArticle>"
)


def made(folder: Path, name: str, *parts: str) -> Path:
    path = folder / name
    path.write_text(f"<PubmedArticleSet>{''.join(parts)}</PubmedArticleSet>")
    return path


def article(pmid: int, title: str, version: int = 1) -> str:
    return ARTICLE.format(pmid=pmid, title=title, version=version)


def delete(*pmids: int) -> str:
    listed = "".join(f'<PMID Version="1">{pmid}</PMID>' for pmid in pmids)
    return f"<DeleteCitation>{listed}</DeleteCitation>"


def merged(folder: Path, files: list[Path], num_buckets: int, require: list[str]) -> tuple[dict[int, str], dict]:
    """Titles by PMID, and the counts, of ``files`` taken through both passes."""
    out = folder / "out"
    for number, path in enumerate(files):
        assert deal_file({"path": str(path), "number": number}, str(out / "dealt"), num_buckets)["damaged"] == ""
    total: dict[str, int] = {}
    for bucket in sorted((out / "dealt").iterdir()):
        report = merge_bucket({"bucket": str(bucket)}, str(out), require)
        for name, value in report["counts"].items():
            total[name] = total.get(name, 0) + value
    rows = [row for part in sorted(out.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]
    assert len({row["pmid"] for row in rows}) == len(rows)
    return {row["pmid"]: row["title"] for row in rows}, total


@pytest.mark.parametrize("num_buckets", [1, 3])
def test_the_latest_version_wins_and_deletions_are_honoured(tmp_path: Path, num_buckets: int) -> None:
    first = made(
        tmp_path, "pubmed1.xml",
        article(1, "old"), article(2, "deleted later"), article(3, "v1"), article(3, "v2", 2), article(4, "kept"),
        article(5, "deleted, then back"), article(6, "deleted in its own file"), delete(6), BARE.format(pmid=7),
    )  # fmt: skip
    second = made(tmp_path, "pubmed2.xml", article(1, "new"), delete(2, 5, 99), article(3, "v1 revised"))
    third = made(tmp_path, "pubmed3.xml", article(5, "back"))
    documents, counts = merged(tmp_path, [first, second, third], num_buckets, ["abstract"])
    assert documents == {1: "new", 3: "v2", 4: "kept", 5: "back"}
    # Citations: 8 of the first file, 2 of the second, 1 of the third.
    assert counts == {
        "citations": 11, "documents": 4, "deleted": 2, "superseded": 4, "no_abstract": 1, "with_mesh": 4,
    }  # fmt: skip


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 3), st.booleans()), min_size=1, max_size=30)
)
def test_the_order_in_which_files_are_read_does_not_matter(rows: list[tuple[int, int, int, bool]]) -> None:
    def table(order: list[int]) -> pa.Table:
        picked = [(*rows[i], i) for i in order]
        return pa.table(
            {
                name: [row[at] for row in picked]
                for at, name in enumerate(("pmid", "version", "file", "deleted", "place"))
            }
        )

    straight, shuffled = table(list(range(len(rows)))), table(list(np.random.default_rng(0).permutation(len(rows))))
    results = []
    for each in (straight, shuffled):
        kept, num_deleted = latest_rows(each)
        results.append((each.take(pa.array(kept)).to_pylist(), num_deleted))
    assert results[0] == results[1]
    # An independent count: the last word on each version, then the highest version.
    last: dict[tuple[int, int], tuple[int, int, bool]] = {}
    for place, (pmid, version, file, deleted) in enumerate(rows):
        last[pmid, version] = max(last.get((pmid, version), (-1, -1, False)), (file, place, deleted))
    expected: dict[int, int] = {}
    for (pmid, version), (_, place, deleted) in last.items():
        if not deleted and version >= rows[expected[pmid]][1] if pmid in expected else not deleted:
            expected[pmid] = place
    assert [row["place"] for row in results[0][0]] == [expected[pmid] for pmid in sorted(expected)]


def test_a_damaged_file_gives_nothing_at_all(tmp_path: Path) -> None:
    path = made(tmp_path, "cut.xml", *(article(i, "x") for i in range(1, 3_000)))
    path.write_bytes(path.read_bytes()[:-40])
    report = deal_file({"path": str(path), "number": 0}, str(tmp_path / "dealt"), 2)
    assert "cut.xml" in report["damaged"]
    assert not list((tmp_path / "dealt").rglob("*.parquet*"))


def test_what_is_no_citation_is_counted_and_leaves_no_bucket(tmp_path: Path) -> None:
    path = made(tmp_path, "books.xml", "<PubmedBookArticle/><PubmedArticle/>")
    report = deal_file({"path": str(path), "number": 0}, str(tmp_path / "dealt"), 2)
    assert (report["damaged"], report["skipped"]) == ("", {"book": 1, "malformed": 1})
    assert not (tmp_path / "dealt").exists()


def test_files_are_found_and_ordered_by_name(tmp_path: Path) -> None:
    for name in ("b/pubmed2.xml.gz", "a/pubmed3.xml", "c/pubmed1.xml", "c/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = (f"{tmp_path}/*/pubmed[23]*", f"{tmp_path}/c", f"{tmp_path}/c/pubmed1.xml")
    assert [p.name for p in find_files(paths)] == ["pubmed1.xml", "pubmed2.xml.gz", "pubmed3.xml"]
    (tmp_path / "empty").mkdir()
    for wrong, fault in [("empty", "no .xml or .xml.gz file"), ("gone.xml", "does not exist"), ("*.nope", "no file")]:
        with pytest.raises(ConfigError, match=fault):
            find_files(f"{tmp_path}/{wrong}")
