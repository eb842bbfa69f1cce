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

from kailin_ray.corpus.ingest.parse import DEALT, tables
from kailin_ray.corpus.readers import part_cache, pubmed_xml
from kailin_ray.corpus.readers.citation import (
    Citation,
    Heading,
    Notice,
    OtherAbstract,
    Section,
    Substance,
    join_sections,
    read_date,
)
from kailin_ray.corpus.readers.pubmed_xml import UNESCAPED, DamagedFileError, read_citations
from kailin_ray.corpus.readers.record_pattern import END, RECORD
from kailin_ray.corpus.readers.xml_text import text
from tests.support.rows import as_rows

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
    assert citation == Citation(
        pmid=123,
        version=2,
        deleted=False,
        title="Effect of H2O & E. coli on β-cells.",
        vernacular_title="Wirkung.",
        abstract="AIMS: To see if p<0.05.\nNo label, α kept.",
        sections=[Section("AIMS", "OBJECTIVE", "To see if p<0.05."), Section(None, None, "No label, α kept.")],
        other_abstracts=[OtherAbstract("Publisher", "ger", "ZIEL: Ganz anders.")],
        year=1998,
        date="1998-12",
        journal="Journal of Things",
        language="eng",
        languages=["eng", "ger"],
        mesh=[
            Heading("D003924", "Diabetes Mellitus, Type 2", True, ("drug therapy", "genetics")),
            Heading("D006801", "Humans", False, ()),
        ],
        publication_types=["Journal Article"],
        supplementary=[
            Substance("C538496", "Usher syndrome", "Disease"),
            Substance("C000657245", "COVID-19 vaccine", "Chemical"),
        ],
        keywords=["mink", "ethics"],
        retracted=True,
        notices=[Notice("RetractionIn", 9, "J. 1999")],
        doi="10.1/x",
        pmcid="PMC7",
    )
    assert not skipped


def test_deletions_books_and_malformed_records_are_told_apart(tmp_path: Path) -> None:
    inner = (
        "<PubmedBookArticle/><PubmedArticle/>"
        "<PubmedArticle><MedlineCitation><PMID>zero</PMID><Article/></MedlineCitation></PubmedArticle>"
        '<DeleteCitation><PMID Version="1">7</PMID><PMID>-8</PMID></DeleteCitation>'
    )
    citations, skipped = read(tmp_path, inner)
    assert citations == [Citation(7, 1, deleted=True)]
    assert skipped == {"book": 1, "malformed": 3}


def test_entities_are_never_expanded_and_nothing_outside_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("SECRET")
    head = f'<!DOCTYPE PubmedArticleSet [<!ENTITY a "{"x" * 50}"><!ENTITY out SYSTEM "file://{tmp_path}/secret">]>'
    (citation,), _ = read(tmp_path, ARTICLE.replace("To  see", "&a;&out;"), head=head)
    assert "xxx" not in citation.abstract
    assert "SECRET" not in citation.abstract


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
        (b"", "an empty or cut file"),
        (b"<PubmedArticleSet><PubmedArticle>", "Premature end|EndTag"),
        (gzip.compress(b"<PubmedArticleSet/>", mtime=0)[:-6], "ended before|Compressed file"),
        (
            gzip.compress(b"<PubmedArticleSet>" + b" " * 100_000 + b"</PubmedArticleSet>", mtime=0)[:60],
            "Compressed file ended",
        ),
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
    assert join_sections([Section("A", None, "x"), Section(None, None, "y")]) == "A: x\ny"
    assert join_sections([]) == ""


def test_a_genuine_file_agrees_with_an_independent_count(small_shard: Path) -> None:
    tree = etree.parse(gzip.open(small_shard))
    citations = list(read_citations(small_shard, Counter()))
    assert len(citations) == len(tree.xpath("//PubmedArticle")) == 500
    assert sum(len(c.mesh) for c in citations) == len(tree.xpath("//MeshHeading"))
    assert sum(bool(c.abstract) for c in citations) == len(tree.xpath("//Article[Abstract/AbstractText]"))
    assert [c.pmid for c in citations] == [int(p) for p in tree.xpath("//MedlineCitation/PMID/text()")]


REGULAR = """<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">124</PMID>
<DateRevised><Year>2021</Year></DateRevised><Article PubModel="Print"><Journal><ISSN>1-2</ISSN><JournalIssue><PubDate>
<Year>2021</Year><Month>06</Month></PubDate></JournalIssue><Title>Things</Title></Journal>
<ArticleTitle>[On <i>mink</i> &amp; 10<sup>6</sup> others].</ArticleTitle>
<Pagination><StartPage>1</StartPage></Pagination>
<ELocationID EIdType="pii" ValidYN="Y">S1</ELocationID><ELocationID EIdType="doi" ValidYN="Y">10.1/y</ELocationID>
<Abstract><AbstractText Label="AIMS" NlmCategory="OBJECTIVE">To see.</AbstractText>
<AbstractText Label="UNLABELLED">α &lt; 5 .</AbstractText><CopyrightInformation>(c)</CopyrightInformation></Abstract>
<AuthorList CompleteYN="Y"><Author><LastName>A</LastName></Author></AuthorList><Language>ger</Language>
<Language>eng</Language><DataBankList><DataBank/></DataBankList><GrantList CompleteYN="N"><Grant/></GrantList>
<PublicationTypeList><PublicationType UI="D016428">Journal Article</PublicationType></PublicationTypeList>
<VernacularTitle>Nerze.</VernacularTitle><ArticleDate DateType="Electronic"><Year>2020</Year></ArticleDate></Article>
<MedlineJournalInfo><MedlineTA>T</MedlineTA></MedlineJournalInfo><ChemicalList><Chemical>
<NameOfSubstance UI="C1">x</NameOfSubstance></Chemical><Chemical><NameOfSubstance UI="D1">y</NameOfSubstance></Chemical>
</ChemicalList><SupplMeshList><SupplMeshName Type="Disease" UI="C2">z</SupplMeshName></SupplMeshList>
<CitationSubset>IM</CitationSubset><CommentsCorrectionsList><CommentsCorrections RefType="ErratumIn">
<RefSource>J.</RefSource><PMID Version="1">9</PMID></CommentsCorrections></CommentsCorrectionsList>
<MeshHeadingList><MeshHeading><DescriptorName UI="D2" MajorTopicYN="Y">Mink</DescriptorName></MeshHeading>
<MeshHeading><DescriptorName UI="D3">Men</DescriptorName><QualifierName UI="Q1">blood</QualifierName></MeshHeading>
</MeshHeadingList><OtherAbstract Type="Publisher" Language="ger"><AbstractText>Zu sehen.</AbstractText></OtherAbstract>
<KeywordList Owner="NOTNLM"><Keyword MajorTopicYN="N">fur</Keyword><Keyword>étude</Keyword></KeywordList>
<CoiStatement>None.</CoiStatement></MedlineCitation><PubmedData><History><PubMedPubDate/></History>
<PublicationStatus>ppublish</PublicationStatus><ArticleIdList><ArticleId IdType="pmc">PMC8</ArticleId></ArticleIdList>
<ReferenceList><ReferenceList><Reference><ArticleIdList><ArticleId IdType="doi">10.9/r</ArticleId></ArticleIdList>
</Reference></ReferenceList></ReferenceList></PubmedData></PubmedArticle>"""
"""A record as NLM writes it, with nearly all that can be in it."""


@pytest.fixture(scope="module")
def genuine(small_shard: Path) -> bytes:
    """Four genuine records, and one that has everything."""
    articles = gzip.open(small_shard).read().split(b"</PubmedArticle>")[:4]
    return b"</PubmedArticle>".join(articles) + f"</PubmedArticle>{REGULAR}</PubmedArticleSet>".encode()


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
    rb"<(AuthorList|CitationSubset|CoiStatement|DataBankList|DateCompleted|DateRevised|GrantList|History|"
    rb"MedlineJournalInfo|NumberOfReferences|Pagination|PublicationStatus|ReferenceList)[ >].*</\1>", re.S
)  # fmt: skip


def without_what_is_left_away(content: bytes) -> bytes:
    """Of each record, as it need not be well-formed there."""
    return b"</PubmedArticle>".join(LEFT_AWAY.sub(b"", one) for one in content.split(b"</PubmedArticle>"))


def careful(path: Path) -> tuple[list[Citation], Counter]:
    """What libxml2 sees of a file, element by element."""
    skipped: Counter = Counter()
    with path.open("rb") as stream:
        return list(pubmed_xml._elements(pubmed_xml._Watched(path, stream), skipped)), skipped


@given(MUTATIONS)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        content = without_what_is_left_away(content)
        path.write_bytes(content)
        tree = etree.fromstring(content, parser)
    records = tree.xpath("/*/PubmedArticle | /*/PubmedBookArticle | /*/DeleteCitation/PMID")
    assert len(citations) + skipped.total() - skipped[UNESCAPED] == len(records)
    for citation in citations:
        assert 0 < citation.pmid < 2**63
    expected, counted = careful(path)
    assert (citations, +skipped) == (expected, counted)
    made = pa.concat_tables([DEALT.empty_table(), *tables(citations, "x")])
    assert made.combine_chunks().equals(pa.Table.from_pylist(as_rows(expected, "x"), DEALT))


def test_a_regular_record_is_cut_and_reads_as_the_careful_way_does(tmp_path: Path) -> None:
    inner = f"\n{REGULAR}\n{REGULAR.replace('>124<', '>125<').replace('Men<', 'Women<')}\n"
    assert all(RECORD.fullmatch(piece) for piece in inner.encode().split(END)[:-1])
    citations, skipped = read(tmp_path, inner)
    assert (citations, skipped) == careful(tmp_path / "made.xml")
    assert citations[0] == Citation(
        pmid=124,
        version=1,
        deleted=False,
        title="On mink & 10^6 others.",
        vernacular_title="Nerze.",
        abstract="AIMS: To see.\nα < 5 .",
        sections=[Section("AIMS", "OBJECTIVE", "To see."), Section(None, None, "α < 5 .")],
        other_abstracts=[OtherAbstract("Publisher", "ger", "Zu sehen.")],
        year=2021,
        date="2021-06",
        journal="Things",
        language="ger",
        languages=["ger", "eng"],
        mesh=[Heading("D2", "Mink", True, ()), Heading("D3", "Men", False, ("blood",))],
        supplementary=[Substance("C2", "z", "Disease"), Substance("C1", "x", "Chemical")],
        keywords=["fur", "étude"],
        publication_types=["Journal Article"],
        retracted=False,
        notices=[Notice("ErratumIn", 9, "J.")],
        doi="10.1/y",
        pmcid="PMC8",
    )
    assert citations[1].mesh[1].name == "Women"
    assert citations[1].mesh[0] is citations[0].mesh[0]  # read once


def test_what_is_known_is_forgotten_where_it_becomes_too_much(
    tmp_path: Path, small_shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(read_citations(small_shard, Counter()))
    monkeypatch.setattr(part_cache, "_MAX_KNOWN_BYTES", 0)
    monkeypatch.setattr(pubmed_xml, "BLOCK_BYTES", 20_000)
    assert list(read_citations(small_shard, Counter())) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<MeshHeadingList>", "<MeshHeadingList><Other/>"),
        ("</MeshHeadingList>", "<Other/></MeshHeadingList>"),
        ("<MeshHeading><D", "<MeshHeading/><MeshHeading><D"),
        ("<MeshHeading><D", "<MeshHeading><MeshHeading/><D"),
        ("<Chemical>", "<Chemical a='b'>"),
        ("<ArticleTitle>", "<ArticleTitle/><ArticleTitle>"),
        ("<ELocationID", "<ELocationID EIdType='doi'/><ELocationID"),
        ("<VernacularTitle>", "<VernacularTitle a='x>y'>"),
        ("</Language>", "</Language ><Language/>"),
        ("<Article P", "<Article xmlns='urn:x' P"),
        ("<Abstract>", "<Abstract><Abstract><AbstractText>Inside.</AbstractText></Abstract>"),
        ("</PubmedData>", "<ArticleIdList><ArticleId IdType='doi'>10.1/z</ArticleId></ArticleIdList></PubmedData>"),
        ("</MedlineCitation>", "</MedlineCitation><MedlineCitation/>"),
        ("<PMID Version", "<PMID>7</PMID><PMID Version"),
        ("</PubmedArticle>", "<Article/></PubmedArticle><PubmedBookArticle/>"),
    ],
)
def test_what_nlm_does_not_write_reads_as_the_careful_way_does(tmp_path: Path, old: str, new: str) -> None:
    inner = f"{REGULAR}{REGULAR.replace(old, new)}"
    assert inner != REGULAR * 2
    assert read(tmp_path, inner) == careful(tmp_path / "made.xml")


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


def test_parts_that_are_well_formed_only_together_are_refused(tmp_path: Path) -> None:
    inner = (
        "<PubmedArticle><MedlineCitation><PMID>1</PMID><Article><VernacularTitle><X><VernacularTitle>a</VernacularTitle>"
        "</Article><OtherAbstract></OtherAbstract ></X></VernacularTitle ><OtherAbstract></OtherAbstract>"
        "</MedlineCitation></PubmedArticle>"
    )
    with pytest.raises(DamagedFileError, match="mismatch"):
        read(tmp_path, inner)


def test_control_characters_leave_texts_and_labels(tmp_path: Path) -> None:
    (citation,), _ = read(
        tmp_path, ARTICLE.replace('"AIMS"', '"A&#x9b;I&#x7f;MS"').replace("To  see", "To&#x85;see&#x9d;")
    )
    assert citation.sections[0] == Section("A I MS", "OBJECTIVE", "To see if p<0.05.")


READ = """
import resource, sys
from collections import Counter
from pathlib import Path
from kailin_ray.corpus.readers.pubmed_xml import UNESCAPED, DamagedFileError, read_citations
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
    assert read(tmp_path, inner)[0][0].title == expected


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
