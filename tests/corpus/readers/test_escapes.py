import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.corpus.readers.citation import Citation, OtherAbstract, Section
from kailin_ray.corpus.readers.escapes import unescape, unescape_citation
from kailin_ray.corpus.readers.pubmed_xml import UNESCAPED, read_citations


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("P &lt; 0.05 and &#x2264; 5 &amp; more &#8805; 1&nbsp;mg", "P < 0.05 and ≤ 5 & more ≥ 1 mg"),
        ("&amp;lt; thrice &amp;amp; more", "< thrice & more"),
        ("Grew <i>E. coli</i> and <b>in <i>vivo</i></b>.", "Grew E. coli and in vivo."),
        ("&lt;i&gt;E. coli&lt;/i&gt;", "E. coli"),
        ("10<sup>-3</sup> mol, cm<sup>2</sup>, H<sub>2</sub>O", "10^-3 mol, cm2, H2O"),
        ("<b>Aim:</b><br/>To see<p>One.</p><p>Two.</p>", "Aim: To see One. Two."),
        ('<SPAN class="a" id="b">text</SPAN>', "text"),
        ("<b>P < 0.05</b> and <i>a>b</i>", "P < 0.05 and a>b"),
        ("caf&eacute; &alpha;-helix &apos;x&apos;", "café α-helix 'x'"),
        ("bad &#0; &#xD800; &#27; &#128;", "bad � � €"),
    ],
)
def test_what_was_escaped_twice_reads_as_on_pubmed(text: str, shown: str) -> None:
    assert unescape(text) == shown
    assert unescape(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "p < 0.05", "<5 mg and >3 mg", "a<b and c>d", "AT&T and R&D; Q&A;", "x?a=1&lt=2", "an <i> alone", "</b> alone",
        "the tags <b> and </b> are", "<i></i>", "mean <I> of", "1 <p> 2", "&#99999999;", "&unknown; &lt", "<b>open <i>",
        "x < i > y </ i >", "<article>x</article>",
    ],
)  # fmt: skip
def test_what_is_text_stays(text: str) -> None:
    assert unescape(text) == text


def test_each_text_of_a_citation_is_unescaped_and_text_about_markup_stays() -> None:
    row = Citation(
        1, 1, False, title="<i>A</i>", vernacular_title="&amp;", abstract="R &amp; D: <b>x</b>\n&nbsp;\ny",
        sections=[Section("R &amp; D", None, "<b>x</b>"), Section(None, None, "&nbsp;"), Section(None, None, "y")],
        other_abstracts=[OtherAbstract(None, "ger", "Z: &lt;\n&nbsp;\nx")], keywords=["<i>A</i>", "A", "B"],
    )  # fmt: skip
    unescaped = unescape_citation(row)
    assert unescaped
    assert (unescaped.title, unescaped.vernacular_title, unescaped.abstract) == ("A", "&", "R & D: x\ny")
    assert unescaped.other_abstracts == [OtherAbstract(None, "ger", "Z: <\nx")]
    assert unescaped.keywords == ["A", "B"]
    for word in ("HTML", "XML", "html5", "markup"):
        assert unescape_citation(row._replace(keywords=[f"{word} tags"])) is None
    assert unescape_citation(row._replace(keywords=["http://x.org/a.html"])) is not None
    assert unescape_citation(row._replace(keywords=[f"{word}less"])) is not None
    assert unescape_citation(unescaped) is None


RECORD = """<PubmedArticle><MedlineCitation Status="MEDLINE" Owner="NLM"><PMID Version="1">{pmid}</PMID>
<Article PubModel="Print"><Journal><JournalIssue><PubDate><Year>2020</Year></PubDate></JournalIssue><Title>J</Title>
</Journal><ArticleTitle>{title}</ArticleTitle><Abstract><AbstractText>{text}</AbstractText></Abstract>
<Language>eng</Language></Article></MedlineCitation></PubmedArticle>
"""
CASES = [
    ("Escaped &lt;i&gt;Escherichia coli&lt;/i&gt; and P &amp;lt; 0.05.",
     "We grew &lt;i&gt;E. coli&lt;/i&gt; at P &amp;lt; 0.05 and &amp;#x2264; 5 &amp;amp; more.",
     "Escaped Escherichia coli and P < 0.05.", "We grew E. coli at P < 0.05 and ≤ 5 & more."),
    ("Real <i>E. coli</i>.", "p &lt; 0.05, &lt;5 mg and &gt;3 mg, R&amp;D, 10<sup>-3</sup>.",
     "Real E. coli.", "p < 0.05, <5 mg and >3 mg, R&D, 10^-3."),
    ("HTML.", "We wrote &lt;b&gt;bold&lt;/b&gt; and &amp;amp;lt;.", "HTML.", "We wrote <b>bold</b> and &amp;lt;."),
    ("Half.", "<i>a &lt;b&gt;b&lt;/b&gt;</i> 2&lt;sup&gt;-1&lt;/sup&gt;", "Half.", "a b 2^-1"),
]  # fmt: skip


@pytest.mark.parametrize("mark", ["", "<!-- of another form -->", "<?pi?>"])
@pytest.mark.parametrize("head", ["", "<!DOCTYPE PubmedArticleSet [<!ENTITY a 'b'>]>"])
def test_all_ways_of_reading_unescape_and_count(tmp_path: Path, mark: str, head: str) -> None:
    records = [RECORD.format(pmid=n, title=t + mark, text=a) for n, (t, a, _, _) in enumerate(CASES, start=1)]
    path = tmp_path / "a.xml"
    path.write_text(head + "<PubmedArticleSet>" + "".join(records) + "</PubmedArticleSet>")
    counts: Counter[str] = Counter()
    rows = list(read_citations(path, counts))
    assert [(row.title, row.abstract) for row in rows] == [(title, text) for _, _, title, text in CASES]
    assert counts == {UNESCAPED: 2}


@given(st.lists(st.sampled_from([
    "<i>", "</i>", "<sup>", "</sup>", "<br>", "<p>", "</p>", "&lt;", "&amp;", "lt;", "&", "<", ">", "i>", "/", "5", " ",
    "a", "é", "&#x41;", "\u0301",
]), max_size=30).map("".join))  # fmt: skip
def test_words_are_never_lost(text: str) -> None:
    shown = unescape(text)
    assert [shown.count(letter) for letter in "5é"] == [text.count(letter) for letter in "5é"]


def test_hostile_tags_take_no_long_time() -> None:
    started = time.process_time()
    for text in ("<i>" * 150_000 + "x" + "</i>" * 150_000, "<sup>" * 100_000 + "</sup>" * 100_000, "&" * 1_000_000,
                 '<i a="' * 150_000, "<i " + " " * 1_000_000, "&lt;i&gt;" * 100_000 + "</i>"):  # fmt: skip
        unescape(text)
    assert time.process_time() - started < 60  # a quadratic way takes hours
