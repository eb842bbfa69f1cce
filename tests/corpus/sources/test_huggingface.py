import io
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.config import Columns, HuggingFace
from kailin_ray.corpus.sources import huggingface
from kailin_ray.corpus.sources.huggingface import dataset_files
from kailin_ray.errors import ConfigError

FIELDS = dict.fromkeys(Columns.__dataclass_fields__)
WANTED = ["id", "context.contexts"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface, "ROWS_PER_FILE", 300)
    monkeypatch.setattr(huggingface, "_BATCH_ROWS", 100)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for number in range(3):
        rows = [
            {"id": number * 250 + row, "context": {"contexts": ["a", "b"], "other": 1}, "wide": "x" * 50}
            for row in range(250)
        ]
        (folder / f"train-{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def source(path: Path | str, **changes: str) -> HuggingFace:
    given = {"kind": "huggingface", "path": str(path), "name": None, "split": "train", "revision": None} | changes
    return HuggingFace(**given, columns=Columns(**FIELDS | {"pmid": "id"}))  # type: ignore[arg-type]


def ids(files: list[Path]) -> list[int]:
    return [number for file in files for number in pq.read_table(file)["id"].to_pylist()]


def test_a_local_dataset_becomes_files_of_its_columns(dataset: Path, tmp_path: Path) -> None:
    files = dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO())
    assert [pq.read_metadata(file).num_rows for file in files] == [300, 300, 150]
    assert ids(files) == list(range(750))
    assert pq.read_schema(files[0]).names == ["id", "context"]
    # Whole: it is not opened again.
    for file in dataset.iterdir():
        file.unlink()
    assert dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO()) == files


def test_a_stream_that_breaks_off_goes_on_behind_the_last_file(dataset: Path, tmp_path: Path) -> None:
    last = dataset / "train-2.jsonl"
    whole = last.read_text()
    last.write_text(whole[:2_000] + '{"id": "broken')
    with pytest.raises(RuntimeError, match="dataset: .*; rows received are kept, and the same command resumes"):
        dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO())
    kept = sorted((tmp_path / "f").glob("*.parquet"))
    assert ids(kept) == list(range(300))
    stamps = [file.stat().st_mtime_ns for file in kept]
    last.write_text(whole)
    files = dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO())
    assert ids(files) == list(range(750))
    assert [file.stat().st_mtime_ns for file in kept] == stamps


def test_wrong_columns_splits_and_places_are_refused(dataset: Path, tmp_path: Path) -> None:
    for given, columns, fault in [
        (source(dataset), ["pmid"], r"source.columns: .*dataset has no column 'pmid'; there are: id, context, wide"),
        (source(dataset, split="test"), WANTED, r"source.path: .*Bad split: test. Available splits: \['train'\]"),
        (source(dataset, name="other"), WANTED, "source.path: .*'other' not found"),
        (source("owner/name"), WANTED, "source.path: owner/name: no such folder, and not available from the hub"),
    ]:
        with pytest.raises(ConfigError, match=fault):
            dataset_files(given, columns, tmp_path / "f", io.StringIO())


def test_code_of_a_dataset_is_not_run(dataset: Path, tmp_path: Path) -> None:
    (dataset / "dataset.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nimport datasets\n")
    with pytest.raises(ConfigError, match="Dataset scripts are no longer supported"):
        dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO())
    assert not (tmp_path / "ran").exists()


def test_a_hub_dataset_is_taken_at_the_commit_that_the_hub_names(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789" * 4
    asked: list[tuple[str, str | None]] = []

    class Api:
        def dataset_info(self, path: str, revision: str | None, timeout: float) -> SimpleNamespace:
            asked.append((path, revision))
            return SimpleNamespace(sha=commit)

    original = datasets.load_dataset_builder

    def load(path: str, name: str | None, revision: str) -> object:
        assert (path, revision) == ("owner/name", commit)
        return original(str(dataset), name)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset_builder", load)
    files = dataset_files(source("owner/name", revision="main"), WANTED, tmp_path / "f", io.StringIO())
    assert ids(files) == list(range(750))
    assert asked == [("owner/name", "main")]
    (note,) = (tmp_path / "f").glob("*.json")
    assert json.loads(note.read_text())["asked"]["revision"] == commit


def test_rows_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), ["x" * 20_000_000])
    table = pa.table({"id": list(range(60)), "context": pa.StructArray.from_arrays([texts], ["contexts"])})
    pq.write_table(table, tmp_path / "shared" / "train.parquet", compression="zstd", store_schema=False)
    (tmp_path / "lines").mkdir()
    rows = [{"id": 1, "context": {"contexts": "x"}}, {"id": 2, "context": {"contexts": "x" * 17_000_000}}]
    (tmp_path / "lines" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, fault in [
        ("shared", r"train.parquet: row 1: 20,000,\d+ bytes .*in column 'context'\); allowed: 16,777,216"),
        ("lines", r"row 2: 17,000,\d+ bytes .*in column 'context'\); allowed: 16,777,216"),
    ]:
        with pytest.raises(ConfigError, match=f"source.path: .*{name}: .*{fault}"):
            dataset_files(source(tmp_path / name), WANTED, tmp_path / "f", io.StringIO())


def test_files_are_as_large_as_bytes_allow(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "BYTES_PER_FILE", 10_000)
    files = dataset_files(source(dataset), WANTED, tmp_path / "f", io.StringIO())
    assert [pq.read_metadata(file).num_rows for file in files][:2] == [100, 100]
    assert ids(files) == list(range(750))


def test_a_parquet_dataset_is_read_in_small_batches(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    rows = [{"id": number, "context": {"contexts": ["a", "b"]}, "other": "x"} for number in range(1_000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d" / "train.parquet", row_group_size=450)
    assert ids(dataset_files(source(tmp_path / "d"), WANTED, tmp_path / "f", io.StringIO())) == list(range(1_000))
