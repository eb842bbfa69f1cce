import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st

from kailin_ray.config import Columns, IngestConfig, check, conf_dir, settings
from kailin_ray.config.quoting import quote_texts
from kailin_ray.corpus.ingest.parse import FileItem, FileReport, deal_file
from kailin_ray.corpus.readers.table_rows import ENDINGS
from kailin_ray.corpus.readers.tables import FIELDS
from kailin_ray.corpus.sources import entrez
from kailin_ray.corpus.sources.resolve import XML_ENDINGS, find_files, source_files, table_columns
from kailin_ray.errors import ConfigError
from tests.conftest import Command
from tests.support.ncbi import ncbi

pytestmark = pytest.mark.process("Ray")  # its commands start no engine


def config(*overrides: str) -> IngestConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(IngestConfig, compose("ingest", [*overrides, "out=o"]))


def item(file: Path, given: IngestConfig) -> FileItem:
    columns = table_columns(given.source)
    return {"path": str(file)} if columns is None else {"path": str(file), "columns": columns}


def dealt(given: IngestConfig, folder: Path) -> tuple[list[FileReport], list[dict[str, Any]]]:
    """Reports and rows of a source's files, as the workers of ingest make them."""
    files = source_files(given.source, folder / "documents", io.StringIO())
    to = folder / "dealt"
    to.mkdir(exist_ok=True)
    reports = [deal_file(item(file, given), str(to)) for file in files]
    made = [to / f"{file.name}.parquet" for file in files]
    return reports, [row for file in made if file.exists() for row in pq.read_table(file).to_pylist()]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: "${" not in text))
@example("metformin[MeSH] AND (2020:2021[dp]) NOT 'x, y'")
@example('"heart attack"')
@example("it's \\' \\\\' \\")
def test_a_query_is_taken_as_it_is(query: str) -> None:
    (override,) = quote_texts(IngestConfig, [f"source.query={query}"])
    parsed = OverridesParser.create().parse_override(override)
    quoted = len(query) > 1 and query[0] == query[-1] and query[0] in "'\""
    assert quoted or query == "null" or parsed.value() == query


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["source.path=a.xml"], {"kind": "pubmed_xml", "path": "a.xml"}),
        (["source.path=[a,b]"], {"kind": "pubmed_xml", "path": ["a", "b"]}),
        (["source=pubmed_query", "source.query='a AND b'"], {"query": "a AND b", "max_results": None}),
        (["source=pmids", "source.path=p.txt"], {"kind": "pmids", "path": "p.txt", "column": None}),
        (["source=huggingface", "source.path=o/n"], {"kind": "huggingface", "split": "train", "revision": None}),
        (["source=pubmedqa", "source.path=x.json"], {"kind": "table", "path": "x.json"}),
        (["source=pubmedqa_hub"], {"kind": "huggingface", "path": "qiaojin/PubMedQA", "name": "pqa_labeled"}),
    ],
)
def test_every_source_composes(overrides: list[str], expected: dict[str, Any]) -> None:
    found = settings(config(*overrides))["source"]
    assert expected.items() <= found.items()


def test_every_field_of_a_table_is_a_key() -> None:
    assert tuple(Columns.__dataclass_fields__) == FIELDS
    given = config("source=table", "source.path=x", "source.columns={pmid: id, abstract: text.body, title: null}")
    assert table_columns(given.source) == {"pmid": "id", "abstract": "text.body"}
    assert table_columns(config("source.path=x").source) is None


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["source=pubmed_query"], "source.query: missing; give it as source.query=…"),
        (["source=pubmed_query", "source.query=x", "source.max_results=10000"], r"source.max_results: .*9999 \(was"),
        (["source=pubmed_query", "source.query=x", "source.base_url=file:///x"], "source.base_url: "),
        (["source=table", "source.path=x", "+source.columns.pmdi=id"], "source.columns.pmdi: Unexpected"),
        (["source=table", "source.path=x", "source.columns.pmid=null"], "source.columns.pmid: .*string"),
        (["source.kind=ftp", "source.path=x"], "source: .*'ftp'.*'pubmed_xml', 'pubmed_query'"),
        (["source=pmids", "source.path=s3://b/x"], "source.path: this must be a local path"),
    ],
)  # fmt: skip
def test_wrong_keys_are_named(overrides: list[str], fault: str) -> None:
    with pytest.raises(ConfigError, match=f"^{fault}"):
        config(*overrides)


def test_files_are_found_and_ordered_by_name(tmp_path: Path) -> None:
    for name in ("b/pubmed2.xml.gz", "a/pubmed3.xml", "c/pubmed1.xml", "c/notes.txt", "c/t.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = (f"{tmp_path}/*/pubmed[23]*", f"{tmp_path}/c", f"{tmp_path}/c/pubmed1.xml")
    found = find_files(paths, XML_ENDINGS)
    assert [p.name for p in found] == ["pubmed1.xml", "pubmed2.xml.gz", "pubmed3.xml"]
    assert [p.name for p in find_files(f"{tmp_path}/c", ENDINGS)] == ["t.jsonl"]
    (tmp_path / "empty").mkdir()
    for wrong, fault in [("empty", "no .xml or .xml.gz file"), ("gone.xml", "does not exist"), ("*.nope", "no file")]:
        with pytest.raises(ConfigError, match=fault):
            find_files(f"{tmp_path}/{wrong}", XML_ENDINGS)
    (tmp_path / "a" / "pubmed1.xml").touch()
    with pytest.raises(ConfigError, match="have the same name"):
        find_files((f"{tmp_path}/a", f"{tmp_path}/c"), XML_ENDINGS)


def test_a_table_is_dealt_as_any_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    rows = [{"id": str(number), "text": {"body": f"Text {number}."}, "mesh": ["Male"]} for number in (9, 3, 70_000)]
    (tmp_path / "t" / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"id": None, "text": None, "mesh": []}])))
    columns = "{pmid: id, abstract: text.body, title: null, mesh: mesh}"
    (report,), found = dealt(config("source=table", f"source.path={tmp_path}/t", f"source.columns={columns}"), tmp_path)
    assert (report["damaged"], report["citations"], report["skipped"]) == ("", 3, {"malformed": 1})
    assert [(row["pmid"], row["abstract"], row["source_file"], row["place"]) for row in found] == [
        (3, "Text 3.", "a.jsonl", 1), (9, "Text 9.", "a.jsonl", 0), (70_000, "Text 70000.", "a.jsonl", 2),
    ]  # fmt: skip
    assert found[0]["mesh"] == [{"ui": "Male", "name": "Male", "major": False, "qualifiers": []}]
    assert report["buckets"] == [0, 2]
    # What an earlier job dealt by other columns is not taken for this one's.
    other = config(
        "source=table", f"source.path={tmp_path}/t", "source.columns={pmid: id, abstract: mesh, title: null}"
    )
    assert [row["abstract"] for row in dealt(other, tmp_path)[1]] == ["Male"] * 3


def test_a_damaged_table_gives_nothing_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.jsonl").write_text('{"pmid": 1}\n{"pmid": 2')
    (tmp_path / "t" / "b.csv").write_text("pmid\n3\n")
    (tmp_path / "t" / "c.csv").write_text("id\n3\n")
    given = config("source=table", f"source.path={tmp_path}/t", "source.columns={title: null, abstract: null}")
    reports, found = dealt(given, tmp_path)
    assert [row["pmid"] for row in found] == [3]
    assert "a.jsonl: after value" in reports[0]["damaged"] or "a.jsonl: value 2" in reports[0]["damaged"]
    assert "c.csv: no column 'pmid'; there are: id" in reports[2]["damaged"]


def test_wrong_columns_and_endings_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": 1, "in": {"text": "x"}}\n')
    (tmp_path / "t.xlsx").write_text("")
    given = ["source=table", f"source.path={tmp_path}/t.jsonl", "source.columns={title: null, abstract: null}"]
    with pytest.raises(ConfigError, match="source.columns: .*t.jsonl: no column 'pmid'; there are: id, in, in.text"):
        source_files(config(*given).source, tmp_path / "o", io.StringIO())
    with pytest.raises(ConfigError, match="source.path: .*t.xlsx: not a table; allowed: .jsonl"):
        source_files(config("source=table", f"source.path={tmp_path}/t.xlsx").source, tmp_path / "o", io.StringIO())


def test_a_query_is_dealt_as_pubmed_files(small_shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrez, "PER_SECOND", 10_000.0)
    monkeypatch.delenv("NCBI_API_KEY", raising=False)
    with ncbi(small_shard) as site:
        asked = ["source=pubmed_query", "source.query=x", f"source.base_url={site.address}"]
        reports, found = dealt(config(*asked, "source.max_results=250"), tmp_path)
        with pytest.raises(ConfigError, match="not a PMID"):
            (tmp_path / "list").write_text("x")
            source_files(config("source=pmids", f"source.path={tmp_path}/list").source, tmp_path / "p", io.StringIO())
    assert [report["citations"] for report in reports] == [200, 50]
    assert len({row["pmid"] for row in found}) == 250
    assert any(row["mesh"] for row in found)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dealt", "documents.fetched", "list"]


def test_a_local_dataset_is_dealt_as_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "d").mkdir()
    rows = [
        {"pubid": number, "question": f"Is it {number}?", "context": {"contexts": ["A.", "B."], "labels": ["X", "Y"],
         "meshes": ["Male"]}, "long_answer": "Yes."} for number in range(1, 4)
    ]  # fmt: skip
    (tmp_path / "d" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (report,), found = dealt(config("source=pubmedqa_hub", f"source.path={tmp_path}/d", "source.name=null"), tmp_path)
    assert report["citations"] == 3
    assert [(row["title"], row["abstract"]) for row in found] == [(f"Is it {n}?", "X: A.\nY: B.") for n in (1, 2, 3)]
    broken = config(
        "source=pubmedqa_hub", f"source.path={tmp_path}/d", "source.name=null", "source.columns.doi=context.doi"
    )
    with pytest.raises(ConfigError, match=r"no column 'context.doi'; there are: pubid, .*context.meshes"):
        source_files(broken.source, tmp_path / "other", io.StringIO())


def test_the_command_takes_a_query_once_and_a_table_after_it(
    kailin: Command, small_shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCBI_API_KEY", "S3CR3T")
    out = tmp_path / "documents"
    with ncbi(small_shard) as site:
        asked = ("source=pubmed_query", "source.query=a AND 2020[dp]", f"source.base_url={site.address}", f"out={out}")
        done = kailin("ingest", *asked)
        assert done.returncode == 0, done.stderr
        assert "500 documents" in done.stdout
        num_asked = len(site.asked)
        again = kailin("ingest", *asked)
        assert (again.returncode, "made already" in again.stdout, len(site.asked)) == (0, True, num_asked)
    (tmp_path / "t.jsonl").write_text('{"pmid": 1, "title": "One", "text": "A text."}\n{"pmid": "x"}\n')
    table = ("source=table", f"source.path={tmp_path}/t.jsonl", "source.columns.abstract=text", f"out={out}")
    done = kailin("ingest", *table)
    assert done.returncode == 0, done.stderr
    assert "501 documents" in done.stdout
    assert '{"malformed": 1}' in done.stdout
    manifest = (out / "manifest.json").read_text()
    assert len(json.loads(manifest)["files"]) == 4
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"S3CR3T" in content for content in written)
    wrong = kailin("ingest", *table, "source.columns.doi=DOI", f"out={tmp_path}/other")
    assert (wrong.returncode, len(wrong.stderr.splitlines())) == (2, 1)
    assert "source.columns: " in wrong.stderr and "no column 'DOI'; there are: pmid, title, text" in wrong.stderr
