"""README and docs: short enough, narrow enough, and without a link that leads nowhere."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from kailin_ray.cli.main import COMMANDS
from tests.conftest import ROOT

PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")), *(ROOT / "docs").glob("*.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub and MkDocs name them in links."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(page.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        other = page.parent / file if file else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            yield f"{page.name}: {target}"


def test_each_link_inside_the_project_leads_somewhere() -> None:
    assert [link for page in PAGES for link in dead_links(page)] == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](none.md) [d](https://example.org/x)\n")
    assert list(dead_links(page)) == ["page.md: #three", "page.md: none.md"]


def test_the_readme_is_a_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_no_line_of_prose_is_wider_than_120_characters() -> None:
    wide = [
        f"{page.name}:{number}"
        for page in PAGES
        for number, line in enumerate(page.read_text().splitlines(), start=1)
        if len(line) > 120 and "|" not in line and "http" not in line
    ]
    assert wide == []


def test_the_readme_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_the_reference_is_that_of_the_configuration() -> None:
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "docs" / "generate_reference.py")
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    said = made.format_reference()
    assert said == made.PAGE.read_text(), "stale: run python docs/generate_reference.py"
    assert {f"### {command}" for command in COMMANDS} <= set(said.splitlines())
    assert "| `source.path` | required | PubMed XML (.xml or .xml.gz): a file, a directory, a glob, or a list" in said
