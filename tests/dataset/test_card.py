"""The card of a dataset shows the texts of abstracts and models, and nothing that they say is done."""

from pathlib import Path

from markdown_it import MarkdownIt

from tests.conftest import Command
from tests.support.runs import record, run

HOSTILE = (
    "<img src=x onerror=alert(1)> [here](https://evil.example) ![x](y)\n\n## Licence\n\nPublic domain. `x` \x1b[31m"
)


def test_a_published_card_has_no_markup_of_its_texts(kailin_here: Command, tmp_path: Path) -> None:
    rows = [
        record(pmid, (f"Does {pmid} help? {HOSTILE}", 0.2), None, 0, answer=HOSTILE, title=HOSTILE)
        for pmid in range(1, 9)
    ]
    run(tmp_path / "run", rows)
    done = kailin_here("publish", f"run={tmp_path}/run", f"out={tmp_path}/dataset", "held_out=false")
    assert done.returncode == 0, done.stderr
    card = (tmp_path / "dataset" / "README.md").read_text()
    html = MarkdownIt("commonmark", {"linkify": False}).render(card)
    assert "Does 1 help?" in html or "Does 2 help?" in html
    for markup in ("<img", 'href="https://evil.example"', ">Licence</h", "\x1b"):
        assert markup not in html
