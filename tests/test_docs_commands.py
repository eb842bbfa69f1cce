"""Every command in README and docs: its keys are checked, and it is run or says what it needs.

A block of commands (```sh) begins with ``# needs ...`` if it cannot be run here. ``...`` stands for keys that an
earlier command of the page has.
"""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path

import pytest

from kailin_ray.agents.prompts import COMPARE, SUITS
from kailin_ray.cli.main import COMMANDS, read_config
from tests.conftest import ASSETS, ROOT, Command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ASSIGNMENT = re.compile(r"[A-Z_]+=")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ELIDED = {
    "distill": ["documents=documents", "index=index", "mesh=assets/mesh.tsv", "retrieval=brief", "out=runs/elided"],
    "submit": [],
}
RUN_BY_THE_WALK = {"README.md", "quickstart.md", "evaluation.md", "reliability.md"}


@dataclass(frozen=True)
class Block:
    """Commands, or Python, of a page."""

    page: str
    language: str
    text: str

    @property
    def needs(self) -> str | None:
        """What it needs that a machine of tests does not have."""
        found = re.match(r"# needs (.+)\n", self.text)
        return found[1] if found else None

    @property
    def commands(self) -> list[list[str]]:
        """The command lines, in words, without environment variables before them."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        split = ([*dropwhile(ASSIGNMENT.match, shlex.split(line, comments=True))] for line in lines)
        return [words for words in split if words]


def read_blocks(page: Path) -> Iterator[Block]:
    for indent, language, text in BLOCK.findall(page.read_text()):
        unindented = "\n".join(line.removeprefix(indent) for line in text.splitlines()) + "\n"
        yield Block(page.name, language, unindented)


BLOCKS = [block for page in PAGES for block in read_blocks(page)]
OURS = [
    pytest.param(words[1:], id=f"{block.page}: {' '.join(words)[:60]}")
    for block in BLOCKS
    if block.language in ("sh", "console")
    for words in block.commands
    if words[0] == "kailin-ray"
]


@pytest.mark.parametrize("words", OURS)
def test_the_keys_of_every_command_are_right(words: list[str]) -> None:
    name, *keys = words
    if "..." in keys:
        elided = ELIDED["distill" if name == "submit" else name]
        given = {key.partition("=")[0] for key in keys}
        keys = [key for key in keys if key != "..."] + [key for key in elided if key.partition("=")[0] not in given]
    read_config(name, keys)


def test_commands_are_found_and_every_one_is_shown_somewhere() -> None:
    assert len(OURS) > 40
    shown = {words[0] for param in OURS for words in param.values}
    elsewhere = "\n".join(page.read_text() for page in PAGES)
    assert [name for name in COMMANDS if name not in shown and f"kailin-ray {name}" not in elsewhere] == []


def test_a_block_is_run_or_says_what_it_needs() -> None:
    unmarked = {block.page for block in BLOCKS if block.language == "sh" and not block.needs}
    assert unmarked == RUN_BY_THE_WALK
    plain = [block for block in BLOCKS if not block.language and "kailin-ray " in block.text]
    assert plain == [], "a block of commands needs the language sh or console"


def test_the_targets_of_make_exist() -> None:
    inline = re.findall(r"`make ([a-z-]+)", "\n".join(page.read_text() for page in PAGES))
    blocks = [words[1] for block in BLOCKS if block.language == "sh" for words in block.commands if words[0] == "make"]
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "setup"} <= {*inline, *blocks}
    assert [target for target in {*inline, *blocks} if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.slow
def test_the_commands_of_readme_and_quickstart_run(
    small_shard: Path, kailin_subprocess: Command, tmp_path: Path
) -> None:
    """A newcomer's walk: in an empty folder, with a smaller PubMed file and fewer abstracts."""
    (tmp_path / "assets").mkdir()
    for asset in ASSETS.iterdir():
        (tmp_path / "assets" / asset.name).symlink_to(asset)
    shard = tmp_path / "assets" / "pubmed20n0014.xml.gz"
    shard.unlink()
    shutil.copyfile(small_shard, shard)
    quickstart = [block for block in BLOCKS if block.page == "quickstart.md" and not block.needs]
    python = [block.text for block in BLOCKS if block.page == "README.md" and block.language == "python"]
    ran = 0
    for block in quickstart:
        for words in block.commands if block.language == "sh" else ():
            if words[0] != "kailin-ray" or words[1] == "fetch":  # make setup; and what is fetched is another file here
                continue
            elided = [key for key in ELIDED["distill"] if not key.startswith("out=")]
            keys = [key for word in words[2:] for key in (elided if word == "..." else [word])]
            keys = ["limit=6" if key == "limit=64" else key for key in keys]
            keys = [
                key.replace("=answer_truncated", "=[no_preference,no_valid_question,truncated,too_short]")
                for key in keys
            ]
            done = subprocess.run(
                [sys.executable, "-m", "kailin_ray", words[1], *keys], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
            ran += 1
        if block.language == "python":
            run_python(block.text, tmp_path)
    assert ran >= 8
    for text in python:
        assert "'ok'" in run_python(text.replace("limit=64", "limit=6"), tmp_path)


def run_python(text: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{text}: {done.stderr}"
    return done.stdout


def test_the_similarities_in_the_documentation_are_right() -> None:
    (text,) = (block.text for block in BLOCKS if block.page == "evaluation.md" and block.language == "python")
    shown = re.findall(r"^(mesh\.\w*similarity\(.*?\))  # .*?([\d.]+)$", text, re.MULTILINE)
    assert len(shown) == 2
    code = "from kailin_ray.mesh import MeshHierarchy\nmesh = MeshHierarchy.load('assets/mesh.tsv')\n"
    values = run_python(code + "".join(f"print(round({call}, 3))\n" for call, _ in shown), ROOT).split()
    assert values == [value for _, value in shown]


def test_the_judge_s_prompts_in_the_documentation_are_those_that_it_reads() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    assert f"> pairwise: *{COMPARE}*" in page
    assert f"> pointwise: *{SUITS}*" in page
