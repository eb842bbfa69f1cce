import gzip
import re
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
from kailin_ray.corpus.citation import Citation, join_sections, read_date
from kailin_ray.corpus.pubmed_xml import DamagedFileError, read_citations
from kailin_ray.corpus.text import text
from kailin_ray.schema import DOCUMENTS

ARTICLE = """<PubmedArticle><MedlineCitation><PMID Version="2">123</PMID><Article>
<Journal><JournalIssue><PubDate><MedlineDate>1998 Dec-1999 Jan</MedlineDate></PubDate></JournalIssue>
<Title>Journal of Things</Title></Journal>
<ArticleTitle>Effect of H<sub>2</sub>O &amp; <i>E. coli</i> on &#x3b2;-cells.</ArticleTitle>
<Abstract><AbstractText Label="AIMS" NlmCategory="OBJECTIVE">To  see
if p&lt;0.05.</AbstractText><AbstractText>No label, \u03b1<!-- gone --> kept.</AbstractText>
<AbstractText Label="EMPTY"> </AbstractText></Abstract>
<Language>eng</Language><Language>ger</Language>
<PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType>
</PublicationTypeList><VernacularTitle>Wirkung.</VernacularTitle></Article>
<MeshHeadingList><MeshHeading><DescriptorName UI="D003924" MajorTopicYN="N">Diabetes Mellitus, Type 2</DescriptorName>
<QualifierName UI="Q1" MajorTopicYN="Y">drug therapy</QualifierName><QualifierName UI="Q2">genetics</QualifierName>
</MeshHeading><MeshHeading><DescriptorName UI="D006801" MajorTopicYN="N">Humans</DescriptorName></MeshHeading>
</MeshHeadingList><CommentsCorrectionsList><CommentsCorrections RefType="RetractionIn">
<RefSource>J. 1999</RefSource><PMID>9</PMID>
</CommentsCorrections></CommentsCorrectionsList>
<ChemicalList><Chemical><NameOfSubstance UI="C000657245">COVID-19 vaccine</NameOfSubstance></Chemical>
<Chemical><NameOfSubstance UI="D007328">Insulin</NameOfSubstance></Chemical></ChemicalList>
<SupplMeshList><SupplMeshName Type="Disease" UI="C538496">Usher syndrome</SupplMeshName></SupplMeshList>
<OtherAbstract Type="Publisher" Language="ger">
<AbstractText Label="ZIEL">Ganz <b>anders</b>.</AbstractText></OtherAbstract>
<KeywordList Owner="NOTNLM"><Keyword>mink</Keyword><Keyword> </Keyword></KeywordList>
<KeywordList Owner="KIE"><Keyword>ethics</Keyword><Keyword>mink</Keyword></KeywordList>
</MedlineCitation><PubmedData><ArticleIdList><ArticleId IdType="doi">10.1/x</ArticleId>
<ArticleId IdType="pmc">PMC7</ArticleId></ArticleIdList><ReferenceList><Reference><ArticleIdList>
<ArticleId IdType="doi">10.9/of-a-reference</ArticleId></ArticleIdList></Reference></ReferenceList></PubmedData>
</PubmedArticle>"""


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
        "vernacular_title": "Wirkung.",
        "abstract": "AIMS: To see if p<0.05.\nNo label, α kept.",
        "sections": [
            {"label": "AIMS", "category": "OBJECTIVE", "text": "To see if p<0.05."},
            {"label": None, "category": None, "text": "No label, α kept."},
        ],
        "other_abstracts": [{"type": "Publisher", "language": "ger", "text": "ZIEL: Ganz anders."}],
        "year": 1998,
        "date": "1998-12",
        "journal": "Journal of Things",
        "language": "eng",
        "languages": ["eng", "ger"],
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
        "supplementary": [
            {"ui": "C538496", "name": "Usher syndrome", "type": "Disease"},
            {"ui": "C000657245", "name": "COVID-19 vaccine", "type": "Chemical"},
        ],
        "keywords": ["mink", "ethics"],
        "retracted": True,
        "notices": [{"type": "RetractionIn", "pmid": 9, "source": "J. 1999"}],
        "doi": "10.1/x",
        "pmcid": "PMC7",
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


LEFT_AWAY = re.compile(
    rb"<(AuthorList|GrantList|History|DateCompleted|DateRevised|MedlineJournalInfo)[ >].*?</\1>", re.S
)


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
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        tree = etree.fromstring(content, parser)
    except etree.XMLSyntaxError:  # then it must be the inside of what is left away that is not well-formed
        content = LEFT_AWAY.sub(b"", content)
        path.write_bytes(content)
        tree = etree.fromstring(content, parser)
    records = tree.xpath("/*/PubmedArticle | /*/PubmedBookArticle | /*/DeleteCitation/PMID")
    assert len(citations) + skipped.total() == len(records)
    for citation in citations:
        assert 0 < citation["pmid"] < 2**63
    pa.Table.from_pylist([one for one in citations if not one["deleted"]], DOCUMENTS.remove(len(DOCUMENTS) - 1))
    # The careful way gives the same.
    again: Counter = Counter()
    with path.open("rb") as stream:
        assert list(pubmed_xml._elements(pubmed_xml._Watched(path, stream), again)) == citations
    assert again == skipped


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
    assert citation["sections"][0] == {"label": "A I MS", "category": "OBJECTIVE", "text": "To see if p<0.05."}


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


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("10<sup>-3</sup> M", "10^-3 M"),
        ("1.5 x 10<sup>6</sup> cells/cm<sup>2</sup>", "1.5 x 10^6 cells/cm2"),
        ("the 5<sup>th</sup>, <sup>14</sup>C, Ca<sup>2+</sup>", "the 5th, 14C, Ca2+"),
        ("<i>in <b>vivo</b></i> <u>x</u>", "in vivo x"),
        ("a <M><msup><mi>R</mi><mn>2</mn></msup><mo>=</mo><mn>0.5</mn></M>.", "a R^2 = 0.5."),
        ("<M><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac></M>", "(a+b)/c"),
        ("<M><msub><mi>x</mi><mi>i</mi></msub><msqrt><mn>2</mn></msqrt></M>", "x_isqrt(2)"),
    ],
)
def test_markup_becomes_readable_text(inner: str, expected: str) -> None:
    inner = inner.replace("<M>", "<math xmlns='http://www.w3.org/1998/Math/MathML'>").replace("</M>", "</math>")
    assert text(etree.fromstring(f"<AbstractText>{inner}</AbstractText>")) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"Year": "1979", "Month": "May", "Day": "3"}, (1979, "1979-05-03")),
        ({"Year": "2021", "Month": "06"}, (2021, "2021-06")),
        ({"Year": "1978", "Season": "Winter"}, (1978, "1978")),
        ({"MedlineDate": "1998 Dec-1999 Jan"}, (1998, "1998-12")),
        ({"MedlineDate": "1978 Mar 15-21"}, (1978, "1978-03-15")),
        ({"MedlineDate": "1977-1978 Fall-Winter"}, (1977, "1977")),
        ({"MedlineDate": "2021 3rd Quarter"}, (2021, "2021")),
        ({"Year": "2021", "Month": "13", "Day": "x"}, (2021, "2021")),
        ({"MedlineDate": "Winter"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_dates_in_all_their_forms(parts: dict[str, str], expected: tuple[int | None, str | None]) -> None:
    assert read_date(parts) == expected


@pytest.mark.parametrize(
    ("title", "language", "expected"),
    [
        ("[The pineal body].", "dut", "The pineal body."),
        ("[Is it (author's transl)]", "ger", "Is it."),
        ("[Really?]", "ger", "Really?"),
        ("[14C]-Leucine in [brain].", "ger", "[14C]-Leucine in [brain]."),
        ("[Letter].", "eng", "[Letter]."),
        ("[Not Available].", "fre", ""),
        ("[Unclosed", "fre", "[Unclosed"),
    ],
)
def test_brackets_of_translated_titles(tmp_path: Path, title: str, language: str, expected: str) -> None:
    inner = ARTICLE.replace("Effect of H<sub>2</sub>O &amp; <i>E. coli</i> on &#x3b2;-cells.", title)
    inner = inner.replace("<Language>eng</Language><Language>ger</Language>", f"<Language>{language}</Language>")
    assert read(tmp_path, inner)[0][0]["title"] == expected


def test_what_is_left_away_may_hold_anything(tmp_path: Path) -> None:
    """Processing instructions, comments, nested lists; and what looks like the end of a record and is none."""
    plain = read(tmp_path, ARTICLE)[0]
    for old, new in [
        ("<Language>", "<AuthorList CompleteYN='Y'><Author><LastName>A</LastName></Author></AuthorList><Language>"),
        ("<ReferenceList>", "<?pmcsd ?><ReferenceList><ReferenceList><Title>x</Title></ReferenceList>"),
        ("<ReferenceList>", "<!-- </PubmedArticle><PubmedArticle> --><ReferenceList>"),
        ("<ReferenceList>", "<History><PubMedPubDate/></History><ReferenceList>"),
        ("<MeshHeadingList>", "<MeshHeadingList><!-- x -->"),
    ]:
        assert read(tmp_path, ARTICLE.replace(old, new, 1))[0] == plain, new
