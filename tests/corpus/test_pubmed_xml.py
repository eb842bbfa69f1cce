import gzip
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lxml import etree

from kailin_ray.corpus import pubmed_xml
from kailin_ray.corpus.pubmed_xml import Citation, DamagedFileError, join_sections, read_citations, text
from kailin_ray.schema import DOCUMENTS

ARTICLE = """<PubmedArticle><MedlineCitation><PMID Version="2">123</PMID><Article>
<Journal><JournalIssue><PubDate><MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate></JournalIssue>
<Title>Journal of Things</Title></Journal>
<ArticleTitle>Effect of H<sub>2</sub>O &amp; <i>E. coli</i> on &#x3b2;-cells.</ArticleTitle>
<Abstract><AbstractText Label="AIMS" NlmCategory="OBJECTIVE">To  see
if p&lt;0.05.</AbstractText><AbstractText>No label, \u03b1<!-- gone --> kept.</AbstractText>
<AbstractText Label="EMPTY"> </AbstractText></Abstract>
<Language>eng</Language><PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType>
</PublicationTypeList></Article>
<MeshHeadingList><MeshHeading><DescriptorName UI="D003924" MajorTopicYN="N">Diabetes Mellitus, Type 2</DescriptorName>
<QualifierName UI="Q1" MajorTopicYN="Y">drug therapy</QualifierName><QualifierName UI="Q2">genetics</QualifierName>
</MeshHeading><MeshHeading><DescriptorName UI="D006801" MajorTopicYN="N">Humans</DescriptorName></MeshHeading>
</MeshHeadingList><CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn"/></CommentsCorrectionsList>
</MedlineCitation></PubmedArticle>"""


def read(tmp_path: Path, inner: str, root: str = "PubmedArticleSet", head: str = "") -> tuple[list[Citation], Counter]:
    path = tmp_path / "made.xml"
    path.write_text(f'<?xml version="1.0" encoding="utf-8"?>{head}<{root}>{inner}</{root}>', encoding="utf-8")
    skipped: Counter = Counter()
    return list(read_citations(path, skipped)), skipped


def test_every_column_of_a_citation(tmp_path: Path) -> None:
    (citation,), skipped = read(tmp_path, ARTICLE)
    assert citation == {
        "pmid": 123,
        "version": 2,
        "deleted": False,
        "title": "Effect of H2O & E. coli on β-cells.",
        "abstract": "AIMS: To see if p<0.05.\nNo label, α kept.",
        "sections": [{"label": "AIMS", "text": "To see if p<0.05."}, {"label": None, "text": "No label, α kept."}],
        "year": 1998,
        "journal": "Journal of Things",
        "language": "eng",
        "mesh": [
            {
                "ui": "D003924",
                "name": "Diabetes Mellitus, Type 2",
                "major": True,
                "qualifiers": ["drug therapy", "genetics"],
            },
            {"ui": "D006801", "name": "Humans", "major": False, "qualifiers": []},
        ],
        "publication_types": ["Journal Article"],
        "retracted": True,
    }
    assert not skipped


def test_deletions_books_and_malformed_records_are_told_apart(tmp_path: Path) -> None:
    inner = (
        "<PubmedBookArticle/><PubmedArticle/>"
        "<PubmedArticle><MedlineCitation><PMID>zero</PMID><Article/></MedlineCitation></PubmedArticle>"
        '<DeleteCitation><PMID Version="1">7</PMID><PMID>-8</PMID></DeleteCitation>'
    )
    citations, skipped = read(tmp_path, inner)
    assert citations == [{"pmid": 7, "version": 1, "deleted": True}]
    assert skipped == {"book": 1, "malformed": 3}


def test_entities_are_never_expanded_and_nothing_outside_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY a "{"x" * 50}"><!ENTITY out SYSTEM "file://{tmp_path}/secret">]>'
    (citation,), _ = read(tmp_path, ARTICLE.replace("To  see", "&a;&out;"), head=head)
    assert "xxx" not in citation["abstract"]
    assert "SECRET" not in citation["abstract"]


def test_a_bomb_of_entities_is_refused(tmp_path: Path) -> None:
    levels = "".join(f'<!ENTITY e{i} "{("&e" + str(i - 1) + ";") * 10}">' for i in range(1, 12))
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY e0 "boom">{levels}]>'
    with pytest.raises(DamagedFileError, match="amplification"):
        read(tmp_path, ARTICLE.replace("To  see", "&e11;"), head=head)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"<html><body/></html>", "not PubMed XML: its root element is <html>"),
        (b"no xml at all", "Start tag expected"),
        (b"", "no element found|Document is empty"),
        (b"<PubmedArticleSet><PubmedArticle>", "Premature end|EndTag"),
        (gzip.compress(b"<PubmedArticleSet/>" * 1)[:-6], "ended before|Compressed file"),
        (gzip.compress(b"<PubmedArticleSet>" + b" " * 100_000 + b"</PubmedArticleSet>")[:60], "Compressed file ended"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "damaged.xml.gz"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=fault) as caught:
        list(read_citations(path, Counter()))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=200))
def test_any_text_comes_through_with_white_space_collapsed(content: str) -> None:
    element = etree.Element("AbstractText")
    try:
        element.text = content
    except ValueError:
        return  # not a text that XML can hold
    import unicodedata

    assert text(element) == unicodedata.normalize("NFC", " ".join(content.split()))


@given(st.binary(max_size=300))
@settings(max_examples=50)
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.xml"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        list(read_citations(path, Counter()))


def test_sections_join_with_their_labels() -> None:
    assert join_sections([{"label": "A", "text": "x"}, {"label": None, "text": "y"}]) == "A: x\ny"
    assert join_sections([]) == ""


def test_a_genuine_file_agrees_with_an_independent_count(small_shard: Path) -> None:
    tree = etree.parse(gzip.open(small_shard))
    citations = list(read_citations(small_shard, Counter()))
    assert len(citations) == len(tree.xpath("//PubmedArticle")) == 500
    assert sum(len(c["mesh"]) for c in citations) == len(tree.xpath("//MeshHeading"))
    assert sum(bool(c["abstract"]) for c in citations) == len(tree.xpath("//Article[Abstract/AbstractText]"))
    assert [c["pmid"] for c in citations] == [int(p) for p in tree.xpath("//MedlineCitation/PMID/text()")]


@pytest.fixture(scope="module")
def genuine(small_shard: Path) -> bytes:
    """Four genuine records."""
    articles = gzip.open(small_shard).read().split(b"</PubmedArticle>")[:4]
    return b"</PubmedArticle>".join(articles) + b"</PubmedArticle></PubmedArticleSet>"


INSERTED = [
    b"<PMID>", b"</PMID>", b"<PMID/>", b"<AbstractText>", b"</Article>", b"<PubmedArticle>", b"</PubmedArticle>",
    b"<PubmedArticle/>", b"<PubmedBookArticle/>", b"<DeleteCitation><PMID>9</PMID></DeleteCitation>", b"<!-- x -->",
    b"&a;", b"&#0;", b"&#xfffe;", b"&lt;", b"<![CDATA[ <x> ]]>", b"]]>", b"<?pi x?>", b' UI="D1"', b"\xff\xfe",
    b"<!DOCTYPE PubmedArticleSet [<!ENTITY a 'b'>]>", b"<MeshHeading>", b"<DescriptorName/>", b"\x00", b"99" * 3_000,
]  # fmt: skip
MUTATIONS = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(INSERTED), st.integers(0, 255), st.just("cut"), st.just("tag")),
    ),
    min_size=1,
    max_size=4,
)


def mutated(content: bytes, mutations: list[tuple[float, bytes | int | str]]) -> bytes:
    """Bytes inserted, bytes changed, the end cut off, tags put in place of others."""
    for place, change in mutations:
        at = int(place * len(content))
        if isinstance(change, bytes):
            at = content.find(b">", at) + 1  # between tags and texts, where it is read
            content = content[:at] + change + content[at:]
        elif change == "cut":
            content = content[:at]
        elif change == "tag":
            start = content.find(b"<", at)
            end = content.find(b">", start) + 1
            content = content[:start] + content[end:] if 0 <= start < end else content
        elif content:
            content = content[:at] + bytes([int(change)]) + content[at + 1 :]
    return content


@given(MUTATIONS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(0.0, b"<!DOCTYPE PubmedArticleSet [<!ENTITY a 'b'>]>"), (0.3, b"&a;"), (0.9, b"&a;")])
def test_a_mutated_file_is_read_or_refused_and_the_counts_add_up(
    tmp_path: Path, genuine: bytes, mutations: list[tuple[float, bytes | int | str]]
) -> None:
    path, content = tmp_path / "mutated.xml", mutated(genuine, mutations)
    path.write_bytes(content)
    skipped: Counter = Counter()
    try:
        citations = list(read_citations(path, skipped))
    except DamagedFileError as error:
        assert "\n" not in str(error)
        return
    tree = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    records = tree.xpath("/*/PubmedArticle | /*/PubmedBookArticle | /*/DeleteCitation/PMID")
    assert len(citations) + skipped.total() == len(records)
    for citation in citations:
        assert 0 < citation["pmid"] < 2**63
    pa.Table.from_pylist([one for one in citations if not one["deleted"]], DOCUMENTS.remove(len(DOCUMENTS) - 1))


@pytest.mark.parametrize("pmid", ["0", "-1", "", "1.0", "1e3", str(2**63), "9" * 6_000, "1<b/>2", "1&a;2", "\u0663"])
def test_a_pmid_that_is_no_number_of_int64_is_counted(tmp_path: Path, pmid: str) -> None:
    head = '<!DOCTYPE PubmedArticleSet [<!ENTITY a "7">]>'
    citations, skipped = read(tmp_path, ARTICLE.replace(">123<", f">{pmid}<"), head=head)
    assert (citations, skipped) == ([], {"malformed": 1})


@pytest.mark.parametrize("filler", ["<a/>", "<!-- x -->", "<PubmedArticle><b/>", " "])
def test_what_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: str) -> None:
    monkeypatch.setattr(pubmed_xml, "MAX_RECORD_BYTES", 100_000)
    many = "<a>" + filler * (300_000 // len(filler)) if filler.startswith("<P") else filler * (300_000 // len(filler))
    with pytest.raises(DamagedFileError, match="100,000 bytes without the end of a record|depth"):
        read(tmp_path, ARTICLE + many)
    assert len(read(tmp_path, ARTICLE * 300)[0]) == 300  # as large, of whole records


def test_control_characters_leave_texts_and_labels(tmp_path: Path) -> None:
    (citation,), _ = read(
        tmp_path, ARTICLE.replace('"AIMS"', '"A&#x9b;I&#x7f;MS"').replace("To  see", "To&#x85;see&#x9d;")
    )
    assert citation["sections"][0] == {"label": "A I MS", "text": "To see if p<0.05."}


READ = """
import resource, sys
from collections import Counter
from pathlib import Path
from kailin_ray.corpus.pubmed_xml import DamagedFileError, read_citations
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(sum(1 for _ in read_citations(Path(sys.argv[1]), Counter())))
except DamagedFileError as error:
    print(error, file=sys.stderr)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("filler", [b"<a/>", b"<!---->", b"\n", b"\x00"])
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path, filler: bytes) -> None:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    block = filler * ((1 << 20) // len(filler))
    content = b"".join([packer.compress(b"<PubmedArticleSet>"), *(packer.compress(block) for _ in range(256))])
    (tmp_path / "bomb.xml.gz").write_bytes(content + packer.flush())
    done = subprocess.run([sys.executable, "-c", READ, tmp_path / "bomb.xml.gz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert int(done.stdout) < 700  # MiB
