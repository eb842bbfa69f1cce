"""Shared fixtures. ``make test`` fetches the assets first; nothing else comes from outside."""

import fcntl
import gzip
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
# Ray gives its workers a niceness of 15, and the other process of `make test` would take all of the machine.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# Threads that wait for one another by spinning would take it as well.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Of vLLM's two processes on a CPU one is enough with the number of threads given: a quarter of an engine's start.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
from lxml import etree

from kailin_ray.config import DistillConfig, load
from kailin_ray.engines.interface import EngineSpec
from kailin_ray.io.cache import CACHE
from kailin_ray.mesh import MeshHierarchy
from tests.support.commands import ROOT, run_here
from tests.support.object_store import object_store
from tests.support.scheduling import ByGroup, group_of, note_groups

# No test asserts a time: a busy machine takes longer over an example, and so does a first call that compiles.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ASSETS = ROOT / "assets"
SHARD = ASSETS / "pubmed20n0014.xml.gz"
MODEL = ASSETS / "smollm2-135m-instruct"
ENCODER = ASSETS / "all-minilm-l6-v2"
MESH = ASSETS / "mesh.tsv"


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache folder for the whole session: no test finds the user's copies, and MeSH is parsed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def toy_mesh() -> MeshHierarchy:
    """Eleven descriptors; worked out by hand in tests/mesh/test_similarity.py."""
    return MeshHierarchy.from_descriptors(TOY)


# C Diseases                        D Chemicals
# ├─ C1 Neoplasms          D10      └─ D1 Hormones      D50
# │  ├─ C1.1 Lung Neop.    D11         ├─ D1.1 Insulin  D51
# │  └─ C1.2 Skin Neop.    D12         └─ D1.2 Estrogen D52
# └─ C2 Metabolic Dis.     D20
#    ├─ C2.1 Diabetes      D21   (also D1.3: a made-up second place)
#    └─ C2.2 Obesity       D22
#       └─ C2.2.1 Morbid   D23
# Male                     D99   no tree number
TOY = [
    ("D10", "Neoplasms", ["C1"]),
    ("D11", "Lung Neoplasms", ["C1.1"]),
    ("D12", "Skin Neoplasms", ["C1.2"]),
    ("D20", "Metabolic Diseases", ["C2"]),
    ("D21", "Diabetes", ["C2.1", "D1.3"]),
    ("D22", "Obesity", ["C2.2"]),
    ("D23", "Obesity, Morbid", ["C2.2.1"]),
    ("D50", "Hormones", ["D1"]),
    ("D51", "Insulin", ["D1.1"]),
    ("D52", "Estrogen", ["D1.2"]),
    ("D99", "Male", []),
]


PATHS = ("documents=d", "index=i", "mesh=m", "out=o")


@pytest.fixture(scope="session")
def config() -> DistillConfig:
    """The defaults of distill; its paths are made up."""
    return load(DistillConfig, "distill", PATHS)


@pytest.fixture(scope="session")
def small_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 500 records of a genuine PubMed file."""
    path = tmp_path_factory.mktemp("shard") / "pubmed20n0014.xml.gz"
    with gzip.open(path, "wb") as sink:
        sink.write(b'<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>\n')
        for number, (_, article) in enumerate(etree.iterparse(gzip.open(SHARD), tag="PubmedArticle"), start=1):
            sink.write(etree.tostring(article))
            article.clear()
            if number == 500:
                break
        sink.write(b"</PubmedArticleSet>\n")
    return path


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def kailin_subprocess() -> Command:
    """Run the real command line, in a process of its own: imports alone take seconds. See CONTRIBUTING.md."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kailin_ray", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def kailin_here() -> Command:
    """Run the command line in this process, for what starts no Ray session: what is refused before, and plain work."""
    return lambda *arguments: run_here(arguments)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[Callable[[], None]]:
    """Starts the one Ray session of this process, unless it runs; tests with this fixture share a process."""
    import ray

    from kailin_ray.runtime import session

    def start() -> None:
        if not ray.is_initialized():
            before = Path.cwd()
            os.chdir(ROOT)  # where its workers find these tests
            session._start_ray(load(DistillConfig, "distill", PATHS).cluster, None)
            os.chdir(before)

    yield start
    from tests.support.shared_actors import end_session

    end_session()


@pytest.fixture(scope="session")
def engines(ray_here: Callable[[], None], tmp_path_factory: pytest.TempPathFactory) -> Callable[[EngineSpec], Any]:
    """Starts real engines in the Ray session, which live as long as it: none is started twice."""
    from tests.support.shared_actors import SharedEngines

    return SharedEngines(tmp_path_factory.mktemp("engines"))


@pytest.fixture(scope="session")
def retrievers() -> Any:
    """Lends real retrievers that live as long as the Ray session."""
    from tests.support.shared_actors import SharedRetrievers

    return SharedRetrievers()


@pytest.fixture(scope="session")
def kailin(ray_here: Callable[[], None], engines: Any, retrievers: Any) -> Command:
    """Run the command line in this process, in its Ray session, on engines that outlive the command."""
    from tests.support.shared_actors import end_session_after, sharing

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        ray_here()
        with sharing(engines, retrievers):
            done = run_here(arguments)
        end_session_after(done)
        return done

    return run


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that all processes of this run of the tests share, made by the first one that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / name).exists():
            make(folder / name)
    return folder / name


def by_command(kailin: Command, *arguments: object) -> Callable[[Path], None]:
    """What makes a folder by a command that is given its ``out``."""

    def make(out: Path) -> None:
        done = kailin(*arguments, f"out={out}")
        assert done.returncode == 0, done.stderr

    return make


@pytest.fixture(scope="session")
def corpus(kailin_subprocess: Command, small_shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shard ingested by the command line."""
    ingest = by_command(kailin_subprocess, "ingest", f"source.path={small_shard}")
    return made_once(tmp_path_factory, "corpus", ingest)


@pytest.fixture(scope="session")
def documents(kailin_subprocess: Command, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of them with abstract and MeSH headings, selected by the command line."""
    select = by_command(kailin_subprocess, "select", f"corpus={corpus}", "filters.require_mesh=true")
    return made_once(tmp_path_factory, "documents", select)


@pytest.fixture(scope="session")
def index(kailin_subprocess: Command, documents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 80 of them, made by the command line."""
    make = by_command(kailin_subprocess, "index", f"documents={documents}", "limit=80")
    return made_once(tmp_path_factory, "index", make)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """An empty bucket of a real S3 server."""
    with object_store():
        yield "s3://bucket"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        note_groups(config, items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    return ByGroup(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End a process's Ray session after the last test of its group: the memory of its engines is needed."""
    if "PYTEST_XDIST_WORKER" not in os.environ or "ray_here" not in getattr(item, "fixturenames", ()):
        return
    if nextitem and group_of(item) != group_of(nextitem):
        from tests.support.shared_actors import end_session

        end_session()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Tell how many engines were started, by the logs that they left."""
    if hasattr(config, "workerinput"):
        return
    logs = config._tmp_path_factory.getbasetemp().rglob("*.log")  # type: ignore[attr-defined]
    starts = sum(log.read_bytes().count(WEIGHTS) for log in logs if log.is_file())
    terminalreporter.write_line(f"vLLM engines started: {starts}")


WEIGHTS = b"Loading safetensors checkpoint shards:   0%"
"""What vLLM writes once while an engine starts."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk than ``tmp_path``."""
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no other disk")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)
