import gzip
import tracemalloc
from pathlib import Path

import pytest

from kailin_ray.corpus.readers.fields import PARTS
from kailin_ray.corpus.readers.record_pattern import END, RECORD, only_tags


def test_genuine_records_are_of_this_form(small_shard: Path) -> None:
    *records, _ = gzip.open(small_shard).read().split(b"<PubmedArticleSet>")[1].split(END)
    matches = [RECORD.fullmatch(record) for record in records]
    assert len(matches) == 500
    assert all(matches)
    titles = [match["ArticleTitle"] for match in matches if match]
    assert all(title.startswith(b"<ArticleTitle>") and title.rstrip().endswith(b"</ArticleTitle>") for title in titles)


def test_its_groups_are_the_parts() -> None:
    assert set(RECORD.groupindex) == set(PARTS)
    assert RECORD.groups == len(PARTS)


BEGIN = b'<PubmedArticle><MedlineCitation Owner="NLM"><PMID Version="1">1</PMID><Article>'


@pytest.mark.parametrize("filler", [b"<", b"<a/>", b"/AuthorList>", b"</", b"<AuthorList>"])
@pytest.mark.parametrize("end", [b"</AuthorList></Article></MedlineCitation>", b"</AuthorList>", b""])
def test_a_hostile_record_takes_no_memory(filler: bytes, end: bytes) -> None:
    record = BEGIN + b"<AuthorList>" + filler * (1_000_000 // len(filler)) + end
    tracemalloc.start()
    match = RECORD.fullmatch(record)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bool(match) == end.endswith(b"</MedlineCitation>")
    assert most < 100_000


@pytest.mark.parametrize(
    ("xml", "expected"),
    [(b"<a>!</a>?", True), (b"<!-- x -->", False), (b"x!<?pi?>", False), (b"!<", True), (b"", True), (b"?" * 9, True)],
)
def test_comments_and_instructions_are_seen(xml: bytes, expected: bool) -> None:
    assert only_tags(xml) is expected
