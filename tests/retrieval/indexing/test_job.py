"""The real job on documents that change: real encoder, real Ray, small corpora."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.config import IndexConfig, check, conf_dir
from kailin_ray.corpus.changes import CHANGES
from kailin_ray.corpus.documents import Documents, first_documents
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import write_json
from kailin_ray.io.manifests import has_manifest, write_manifest
from kailin_ray.retrieval.indexing import encoding, job
from kailin_ray.retrieval.search.folder import Index, IndexInputs, IndexManifest, Structure
from kailin_ray.retrieval.search.index import PassageIndex, load_deleted
from kailin_ray.retrieval.search.store import Store, write_shard
from kailin_ray.runtime.session import ray_session
from kailin_ray.schema import DOCUMENTS
from tests.conftest import ENCODER, ROOT
from tests.support import indexes as built
from tests.support.manifests import documents_manifest

WORDS = "insulin glucose kidney liver mouse rat enzyme tumour virus antibody receptor membrane artery bone".split()


@pytest.fixture(scope="module")
def terminal(ray_here: Callable[[], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The terminal of a Ray session for all tests of this file."""
    ray_here()
    config = index_config(Path("documents"), Path("out"))
    with ray_session(config.cluster, tmp_path_factory.mktemp("log") / "ray.log") as terminal:
        yield terminal


def index_config(documents: Path, out: Path, *overrides: str) -> IndexConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        fixed = [f"documents={documents}", f"out={out}", f"encoder.path={ENCODER}", "encoder.max_length=32"]
        return check(IndexConfig, compose("index", [*fixed, *overrides]))


def document(pmid: int, salt: str = "") -> dict[str, Any]:
    rng = np.random.default_rng(pmid)
    words = " ".join(rng.choice(WORDS, 6))
    filled = {field.name: None for field in DOCUMENTS} | {
        "pmid": pmid,
        "title": f"{words.title()} {pmid}{salt}",
        "abstract": f"The {words} of {pmid}{salt}.",
        "mesh": [{"ui": f"D{pmid % 7:06}", "name": "x", "major": False, "qualifiers": []}],
    }
    return filled


def write_documents(
    folder: Path, parts: dict[int, list[dict[str, Any]]], changes: dict[int, str] | None = None
) -> Path:
    """A folder of documents as ``ingest`` makes it, or its next update."""
    folder.mkdir(exist_ok=True)
    for number, rows in parts.items():
        pq.write_table(pa.Table.from_pylist(rows, DOCUMENTS), folder / f"part-{number:05}.parquet")
    number = len(Documents.open(folder).manifest.updates) + 1 if has_manifest(folder) else 1
    if changes:
        place = folder / "changes" / f"{number:04}"
        place.mkdir(parents=True)
        rows = [{"pmid": pmid, "change": kind, "fields": ["title"]} for pmid, kind in sorted(changes.items())]
        pq.write_table(pa.Table.from_pylist(rows, CHANGES), place / "part-00000.parquet")
    write_json(folder / "descriptors.json", {})
    write_manifest(folder, documents_manifest(number, id=folder.name))
    return folder


def make(config: IndexConfig, terminal: Any) -> IndexManifest:
    documents = Documents.open(config.documents)
    made = job.resume_index(config, documents)
    assert not (made and job.up_to_date(config, documents, made))
    index = job.make_index(config, documents, made, *job.find_work(config, documents, made), terminal)
    again = job.resume_index(config, documents)
    assert again == index
    assert job.up_to_date(config, documents, index)
    return index.manifest


def live(folder: Path) -> dict[int, str]:
    """Title of each passage that counts, by its PMID."""
    index = Index.open(folder)
    store = Store(index.shards(), index.manifest.dimension)
    rows = np.setdiff1d(np.arange(len(store)), load_deleted(folder))
    found = {pmid: title for pmid, title, _, _ in store.passages(rows)}
    assert len(found) == len(rows) == index.manifest.num_passages
    return found


def test_an_index_follows_its_documents_without_being_made_anew(
    tmp_path: Path, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = {number: [document(pmid) for pmid in range(start, start + 20)] for number, start in ((0, 100), (1, 200))}
    first[1][3]["abstract"] = ""
    documents, out = write_documents(tmp_path / "documents", first), tmp_path / "index"
    made = make(index_config(documents, out), terminal)
    titles = {row["pmid"]: row["title"] for rows in first.values() for row in rows if row["abstract"]}
    assert live(out) == titles
    assert made.search == Structure(kind="exact")
    before = (out / "shards/00000/vectors.f16").stat().st_mtime_ns

    # One revised, one deleted, five new.
    changed = [document(pmid, "b" if pmid == 204 else "") for pmid in range(200, 225) if pmid != 207]
    write_documents(documents, {1: changed}, {204: "revised", 207: "deleted", **dict.fromkeys(range(220, 225), "new")})
    made = make(index_config(documents, out), terminal)
    wanted = titles | {row["pmid"]: row["title"] for row in changed}
    del wanted[207]
    assert live(out) == wanted
    assert (out / "shards/00000/vectors.f16").stat().st_mtime_ns == before
    assert [(one.added, one.deleted) for one in made.updates] == [(39, 0), (7, 2)]
    assert made.updates[1].encoding.num_encoded == 7  # 203 has an abstract now
    assert {one.name: one.rows for one in made.shards} == {"shards/00000": 39, "shards/00001": 7}
    sizes = {file.relative_to(out).as_posix(): file.stat().st_size for file in out.rglob("*.*")}
    assert made.files == {name: size for name, size in sizes.items() if name != "manifest.json"}
    index = PassageIndex(Index.open(out))
    store = Store(Index(out, made).shards(), made.dimension)
    (row,) = store.rows(np.array([204]))
    assert index.search(store.vectors(np.array([row])).astype(np.float32), 1, [None])[0][0].title.endswith("204b")

    # The same with words: of all shards, with the next update of the new one alone.
    made = make(index_config(documents, out, "lexical=true"), terminal)
    assert {"shards/00000/lexical/meta.json", "shards/00001/lexical/meta.json"} < made.files.keys()
    asked = f"Is it {wanted[211]}?"
    found = PassageIndex(Index.open(out), lexical_weight=1_000.0).search(
        np.ones((1, 384), np.float32), 1, [None], None, [asked]
    )
    assert found[0][0].pmid == 211

    # The same with a limit: those beyond it go, nothing is encoded.
    made = make(index_config(documents, out, "limit=25"), terminal)
    assert sorted(live(out)) == sorted(wanted)[:25]
    assert made.updates[-1].encoding.num_encoded == 0


@pytest.mark.slow
def test_another_structure_is_made_of_the_vectors_that_are_there(tmp_path: Path, terminal: Any) -> None:
    rows = [document(pmid) for pmid in range(1_000, 2_100)]
    documents = write_documents(tmp_path / "documents", {0: rows})
    out = tmp_path / "index"
    with pytest.raises(ConfigError, match=r"structure: ivf_pq needs 1,000 passages, there are 900"):
        make(index_config(documents, out, "limit=900", "structure=ivf_pq"), terminal)
    assert not out.exists()
    made = make(index_config(documents, out, "structure=ivf_pq"), terminal)
    assert made.search.kind == "ivf_pq"
    assert made.search.recall
    assert made.search.recall.recall_at_4 >= 0.95
    for structure in ("hnsw", "exact"):
        made = make(index_config(documents, out, f"structure={structure}"), terminal)
        assert made.search.kind == structure
        assert made.updates[-1].encoding.num_encoded == 0
        assert len(live(out)) == 1_100
    # An update of an approximate structure adds to it.
    make(index_config(documents, out, "structure=hnsw"), terminal)
    more = [*rows, *(document(pmid) for pmid in range(3_000, 3_100))]
    write_documents(documents, {0: more}, dict.fromkeys(range(3_000, 3_100), "new"))
    made = make(index_config(documents, out, "structure=hnsw"), terminal)
    assert made.search.made_for == 1_100
    assert made.search.recall
    assert made.search.recall.recall_at_4 >= 0.95
    assert len(live(out)) == 1_200


def test_documents_without_an_abstract_make_no_index(tmp_path: Path, terminal: Any) -> None:
    rows = [document(1) | {"abstract": None}, document(2) | {"abstract": ""}]
    documents = write_documents(tmp_path / "documents", {0: rows})
    with pytest.raises(ConfigError, match="documents has no document with an abstract to index"):
        make(index_config(documents, tmp_path / "index"), terminal)
    assert not (tmp_path / "index").exists()


def test_a_killed_job_goes_on_row_by_row_and_gives_the_same(tmp_path: Path, terminal: Any) -> None:
    documents = write_documents(tmp_path / "documents", {0: [document(pmid) for pmid in range(1, 401)]})
    out = tmp_path / "index"
    options = [f"documents={documents}", f"out={out}", f"encoder.path={ENCODER}", "encoder.max_length=32"]
    command = [sys.executable, "-m", "kailin_ray", "index", *options, "encoder.batch_size=4"]
    first = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    parts = tmp_path / ".index.encoded"
    while len(list(parts.glob("[0-9]*.parquet"))) < 2:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    config = index_config(documents, out, "encoder.batch_size=4")
    made = make(config, terminal)
    told = made.updates[0].encoding
    assert told.num_taken_over >= 64
    assert told.num_taken_over + told.num_encoded == 400
    assert sorted(live(out)) == list(range(1, 401))
    assert not parts.exists()
    whole = make(index_config(documents, tmp_path / "whole", "encoder.batch_size=4"), terminal)
    one, other = (
        Store(Index(folder, read).shards(), 384) for folder, read in ((out, made), (tmp_path / "whole", whole))
    )
    rows = np.arange(400)
    assert np.array_equal(one.pmids(rows), other.pmids(rows))
    assert np.allclose(one.vectors(rows), other.vectors(rows), atol=2e-3)  # other neighbours in a batch


def test_parts_of_documents_that_changed_since_are_encoded_anew(tmp_path: Path) -> None:
    documents = write_documents(tmp_path / "documents", {0: [document(pmid) for pmid in range(1, 9)]})
    config = index_config(documents, tmp_path / "index")
    inputs = IndexInputs(documents="1", encoder={}, format=4)
    scratch = encoding.open_parts(config, Documents.open(documents), inputs)
    for pmids in ([1, 2], [3, 4]):
        pq.write_table(pa.table({"pmid": pa.array(pmids, pa.int64())}), scratch / f"{pmids[0]:09}.parquet")
    write_documents(documents, {}, {2: "revised", 9: "new"})
    assert encoding.open_parts(config, Documents.open(documents), inputs) == scratch
    assert [part.name for part in encoding.list_encoded_parts(scratch)] == ["000000003.parquet"]
    encoding.open_parts(config, Documents.open(documents), replace(inputs, documents="another"))
    assert encoding.list_encoded_parts(scratch) == []
    assert first_documents(Documents.open(documents), None)[1] == 8


def test_lost_and_repeated_parts_are_named_before_the_index_is_complete(
    tmp_path: Path, terminal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [document(pmid) for pmid in range(1, 101)]
    rows[49]["abstract"] = ""  # needs no vector
    documents, out = write_documents(tmp_path / "documents", {0: rows}), tmp_path / "index"
    config = index_config(documents, out, "encoder.batch_size=4")
    scratch, encode = tmp_path / ".index.encoded", job.encode
    faults: list[Callable[[], object]] = []

    def encode_and_fail(*arguments: Any) -> Any:
        cost = encode(*arguments)
        for fault in faults:
            fault()
        return cost

    monkeypatch.setattr(job, "encode", encode_and_fail)

    def lose() -> None:
        part = encoding.list_encoded_parts(scratch)[0]  # the last one may have few rows
        lost.extend(encoding.read_pmids(part).tolist())
        part.unlink()

    def repeat() -> None:
        """A task of a killed job writes its part, of rows that are encoded since, under a name of its own."""
        late = pq.read_table(encoding.list_encoded_parts(scratch)[0]).slice(1)
        pq.write_table(late, scratch / "000000002.parquet")

    lost: list[int] = []
    faults[:] = [lose]
    with pytest.raises(CommandFailedError) as error:
        make(config, terminal)
    some = ", ".join(map(str, sorted(lost)[:5]))
    assert f"{len(lost)} abstracts have no vector (PMID {some}, ...)" in str(error.value)
    assert not out.exists()

    faults[:] = [repeat]
    with pytest.raises(CommandFailedError, match=r"abstracts have several vectors \(PMID \d+, "):
        make(config, terminal)
    assert not out.exists()

    faults[:] = []
    parts = encoding.list_encoded_parts(scratch)
    parts[-1].write_bytes(parts[-1].read_bytes()[:-100])  # cut by a power failure
    made = make(config, terminal)
    assert sorted(live(out)) == [pmid for pmid in range(1, 101) if pmid != 50]
    assert made.num_passages == 99


def test_parts_with_the_same_first_row_do_not_replace_each_other(tmp_path: Path) -> None:
    for pmids in ([7, 8, 9], [7, 10]):
        block = pa.table({"pmid": pa.array(pmids, pa.int64()), "seconds": [0.1] * len(pmids)})
        encoding._write_part(block, str(tmp_path))
    assert len(encoding.list_encoded_parts(tmp_path)) == 2


@pytest.mark.parametrize("content", [b"", b"{", bytes(20), b"[]"])
def test_a_damaged_note_of_parts_makes_them_anew(tmp_path: Path, content: bytes) -> None:
    documents = write_documents(tmp_path / "documents", {0: [document(pmid) for pmid in range(1, 9)]})
    config = index_config(documents, tmp_path / "index")
    inputs = IndexInputs(documents="1", encoder={}, format=4)
    scratch = encoding.open_parts(config, Documents.open(documents), inputs)
    (scratch / "encoded.json").write_bytes(content)
    (scratch / "000000001.parquet").touch()
    encoding.open_parts(config, Documents.open(documents), inputs)
    assert [path.name for path in scratch.iterdir()] == ["encoded.json"]


@pytest.mark.slow
def test_parts_that_are_in_the_index_or_not_wanted_are_not_taken_again(tmp_path: Path, terminal: Any) -> None:
    rows = [document(pmid) for pmid in (10, 20, 30)]
    documents, out = write_documents(tmp_path / "documents", {0: rows}), tmp_path / "index"
    config = index_config(documents, out)
    kept: list[bytes] = []
    scratch = tmp_path / ".index.encoded"

    def keep(*_: Any) -> None:
        kept.extend(part.read_bytes() for part in encoding.list_encoded_parts(scratch))

    with pytest.MonkeyPatch.context() as patch:
        real = job.shutil.rmtree
        patch.setattr(job.shutil, "rmtree", lambda path, **o: keep() if Path(path) == scratch else real(path, **o))
        make(config, terminal)  # killed before it removed its parts
    assert kept
    write_documents(documents, {0: [*rows, document(40)]}, {40: "new"})
    made = make(config, terminal)
    assert sorted(live(out)) == [10, 20, 30, 40]
    assert made.updates[1].added == 1

    # A limit, parts of a killed job, and a document that comes before them.
    other = index_config(documents, tmp_path / "limited", "limit=3")
    opened = Documents.open(documents)
    scratch = encoding.open_parts(other, opened, job.index_inputs(other, opened))
    (scratch / "000000010.parquet").write_bytes(kept[0])
    write_documents(documents, {0: [document(5), *rows, document(40)]}, {5: "new"})
    made = make(other, terminal)
    assert sorted(live(tmp_path / "limited")) == [5, 10, 20]
    assert made.updates[0].encoding.num_encoded == 3


def test_a_shard_can_be_written_again(tmp_path: Path) -> None:
    part = built.part(tmp_path / "p.parquet", [1, 2], built.unit(2))
    assert write_shard([part], tmp_path / "s") == write_shard([part], tmp_path / "s")
