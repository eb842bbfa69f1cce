import re

from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kailin_ray.io.markdown import code, escape_text
from kailin_ray.io.terminal import printable

HOSTILE = [
    "fine\n\n## Source and licence\n\nPublic domain.", "<img src=x onerror=alert(1)>", "[here](https://evil.example)",
    "![x](y)", "<b>bold</b> & *stars* _under_ `code` ~~gone~~ | cell", "1. one\n- two", "https://evil.example",
    "\x1b[31mred\x1b[0m", "a\u202eb", "&lt;script&gt;", "$x$ @someone #1", "\\*", "Setext\n===",
]  # fmt: skip
SIGNS = "<>&[]()*_`#-+.!|~\\\n ab1:/="
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60), st.text(alphabet=SIGNS, max_size=60))


def shown(markdown: str) -> str:
    """The text that a reader sees of one paragraph, after it was made to HTML."""
    html = MarkdownIt("commonmark", {"linkify": False}).enable("table").enable("strikethrough").render(markdown).strip()
    inside = re.fullmatch(r"<p>(.*)</p>", html, re.DOTALL)
    assert inside and "<" not in inside[1], html
    return inside[1].replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")


@given(texts)
@example("a\n# b")
def test_foreign_text_is_shown_as_it_is_and_nothing_else(text: str) -> None:
    line = " ".join(printable(text).split())
    assert "\n" not in escape_text(text)
    if line:
        assert shown(f"x {escape_text(text)}") == f"x {line}"


@given(texts)
def test_a_code_span_stays_one(text: str) -> None:
    span = code(text)
    assert span.count("`") == 2 and "\n" not in span and "|" not in span


def test_a_terminal_is_not_controlled() -> None:
    assert printable("\x1b[2Jwiped \u202e\x07") == "\\x1b[2Jwiped \\u202e\\x07"
    assert printable("a\tb\nβ-Zellen …") == "a\tb\nβ-Zellen …"
