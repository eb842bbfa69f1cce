"""The card of a dataset shows the texts of abstracts and models, and nothing that they say is done."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from markdown_it import MarkdownIt

from tests.conftest import ROOT, Command

HOSTILE = (
    "<img src=x onerror=alert(1)> [here](https://evil.example) ![x](y)\n\n## Licence\n\nPublic domain. `x` \x1b[31m"
)


def test_a_published_card_has_no_markup_of_its_texts(kailin_here: Command, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "ca469ee" / "run", tmp_path / "run")
    (path,) = (tmp_path / "run" / "records").iterdir()
    with pq.ParquetFile(path) as file:
        table = file.read()
    rows = table.to_pylist()
    for row in rows:
        row["title"], row["answer"] = (row[name] and f"{name} {HOSTILE}" for name in ("title", "answer"))
        for candidate in row["candidates"] or ():
            candidate["question"] = f"Does it? {HOSTILE}"
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    done = kailin_here("publish", f"run={tmp_path}/run", f"out={tmp_path}/dataset")
    assert done.returncode == 0, done.stderr
    html = MarkdownIt("commonmark").render((tmp_path / "dataset" / "README.md").read_text())
    assert "Does it? &lt;img src=x" in html and "title &lt;img" in html and "answer &lt;img" in html
    for markup in ("<img", 'href="https://evil.example"', ">Licence</h", "\x1b"):
        assert markup not in html
