"""Record files: merged, listed and loaded, whatever moment a crash chooses."""

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kailin_ray.dataset import records
from kailin_ray.dataset.records import (
    compact,
    compacting,
    keep_one,
    load_pmids,
    record_files,
    set_aside_damaged,
)
from kailin_ray.distill.sink import RecordSink
from kailin_ray.schema import RECORDS


def block(first: int, rows: int) -> pa.Table:
    made = [{"pmid": pmid, "title": f"Title {pmid}.", "status": "ok"} for pmid in range(first, first + rows)]
    return pa.Table.from_pylist(made, RECORDS)


def write(run: Path, first: int, rows: int) -> None:
    RecordSink(run / "records").write([block(first, rows)], None)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of 30 small files of four records, merged into files of 20 or more, in groups of 8 or more."""
    monkeypatch.setattr(records, "ROWS_PER_FILE", 20)
    monkeypatch.setattr(records, "ROWS_PER_GROUP", 8)
    for number in range(30):
        write(tmp_path, 1 + 4 * number, 4)
    return tmp_path


def rows(run: Path) -> list[dict[str, Any]]:
    return sorted(records.records(run).to_table().to_pylist(), key=lambda row: row["pmid"])


def test_merged_records_are_the_same_records_in_fewer_files(run: Path) -> None:
    before = rows(run)
    compact(run / "records")
    files = list((run / "records").iterdir())
    assert [path.name.startswith("merged-") for path in files] == [True] * 6
    assert {pq.read_metadata(path).num_rows for path in files} == {20}
    assert {pq.read_metadata(path).row_group(0).num_rows for path in files} == {8}
    assert rows(run) == before
    assert load_pmids(run / "records").tolist() == list(range(1, 121))
    # A second time there is nothing to do, and merged files are not merged again.
    compact(run / "records")
    assert set((run / "records").iterdir()) == set(files)
    write(run, 121, 4)
    write(run, 125, 4)
    compact(run / "records")
    assert len(set((run / "records").iterdir()) - set(files)) == 1
    assert load_pmids(run / "records").tolist() == list(range(1, 129))


def test_a_crash_at_any_step_loses_and_doubles_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sorted((run / "records").iterdir())[10:]:
        path.unlink()
    before = rows(run)
    seen = set()
    for step in range(1, 200):
        copy = run / str(step)
        shutil.copytree(run / "records", copy / "records")
        with monkeypatch.context() as crashing:
            crash_at(step, crashing)
            try:
                compact(copy / "records")
            except KeyboardInterrupt:
                pass
            else:
                break
        assert rows(copy) == before
        assert len(load_pmids(copy / "records")) == len(before)
        seen.add(len(list((copy / "records").iterdir())))
        compact(copy / "records")
        assert rows(copy) == before
        assert len(list((copy / "records").iterdir())) == 2
    # Of each merge: read, write three groups, wait for the disk, rename, tidy up, wait again, remove five originals.
    assert step == 2 * 13 + 1
    assert seen == set(range(3, 12))


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the ``step``-th call of anything that touches the files raise instead of doing it."""
    calls = iter(range(1, 1_000))

    def crashing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == step:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(records, "_groups", crashing(records._groups))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", crashing(pq.ParquetWriter.write_table))
    monkeypatch.setattr(records, "sync", crashing(records.sync))
    monkeypatch.setattr(Path, "replace", crashing(Path.replace))
    monkeypatch.setattr(Path, "unlink", crashing(Path.unlink))


def test_what_a_killed_merge_left_half_written_is_removed(run: Path) -> None:
    (run / "records" / ".merged-0.parquet.7.partial").write_bytes(b"PAR1")
    assert len(load_pmids(run / "records")) == 120
    compact(run / "records", threading.Event())  # a block may be being written
    assert len(list((run / "records").glob(".*"))) == 1
    compact(run / "records")
    assert not list((run / "records").glob(".*"))


def test_a_write_task_that_is_repeated_after_its_file_was_merged_doubles_nothing(run: Path) -> None:
    before = rows(run)
    compact(run / "records")
    write(run, 9, 4)
    assert len(list((run / "records").iterdir())) == 7
    assert rows(run) == before
    assert load_pmids(run / "records").tolist() == list(range(1, 121))
    compact(run / "records")
    assert len(list((run / "records").iterdir())) == 6
    assert rows(run) == before


def test_while_a_run_goes_on_the_rest_waits_for_more(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LOOK_S", 0.01)
    monkeypatch.setattr(records, "MANY", 8)
    folder = run / "records"
    write(run, 121, 4)
    with compacting(folder):
        deadline = time.monotonic() + 60
        while len(list(folder.iterdir())) > 7:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    # Six merged files and one that is not many.
    assert sorted(path.name.startswith("merged-") for path in folder.iterdir()) == [False] + [True] * 6
    assert load_pmids(folder).tolist() == list(range(1, 125))
    stopped = threading.Event()
    stopped.set()
    for number in range(31, 40):
        write(run, 1 + 4 * number, 4)
    compact(folder, stopped)
    assert len(list(folder.glob("merged-*"))) == 6


def test_no_records_are_no_pmids(tmp_path: Path) -> None:
    compact(tmp_path / "records")
    assert record_files(tmp_path / "records") == []
    found = load_pmids(tmp_path / "records")
    assert (found.dtype, len(found)) == (np.int64, 0)


def test_pmids_of_several_folders_come_sorted_in_one_array(run: Path) -> None:
    write(run / "other", 60, 4)
    found = load_pmids(run / "records", run / "other" / "records")
    assert found.tolist() == sorted([*range(1, 121), *range(60, 64)])


def test_records_that_are_dropped_can_be_made_again_under_the_same_name(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    write(tmp_path, 7, 1)
    write(tmp_path, 8, 2)
    compact(folder)
    assert records.drop(folder, np.array([7, 99])) == 1
    assert load_pmids(folder).tolist() == [8, 9]
    assert records.drop(folder, np.array([7, 99])) == 0
    write(tmp_path, 7, 1)  # a file of the name that the merged one replaced
    assert load_pmids(folder).tolist() == [7, 8, 9]
    compact(folder)
    assert load_pmids(folder).tolist() == [7, 8, 9]
    assert [row["title"] for row in rows(tmp_path)] == ["Title 7.", "Title 8.", "Title 9."]


def test_a_merged_file_that_is_dropped_from_still_stands_for_its_originals(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    for first in (1, 5):
        write(tmp_path, first, 4)
    originals = {path.name: path.read_bytes() for path in folder.iterdir()}
    compact(folder)
    for name, content in originals.items():  # as a kill leaves them, between the merged file's rename and their removal
        (folder / name).write_bytes(content)
    assert records.drop(folder, np.array([2])) == 1
    assert load_pmids(folder).tolist() == [1, 3, 4, 5, 6, 7, 8]


def test_one_record_of_each_pmid_is_kept(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As after two processes that wrote at the same time: small files, and files that are merged."""
    folder = run / "records"
    before = rows(run)
    shutil.copy(sorted(folder.glob("*.parquet"))[3], folder / "000000013-again.parquet")
    assert keep_one(folder) == 4
    assert rows(run) == before
    compact(folder)
    write(run, 10, 8)
    assert len(load_pmids(folder)) == 128
    assert keep_one(folder) == 8
    assert rows(run) == before
    assert keep_one(folder) == 0
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        f"{number} records were duplicates; the first of each PMID is kept" for number in (4, 8)
    ]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no footer", bytes(1_000)])
def test_a_file_that_a_power_failure_left_damaged_is_set_aside(run: Path, content: bytes) -> None:
    path = sorted((run / "records").glob("*.parquet"))[3]
    path.write_bytes(content)
    assert set_aside_damaged(run / "records") == [path.with_name(f"{path.name}.damaged")]
    assert len(load_pmids(run / "records")) == 116
    assert set_aside_damaged(run / "records") == []
