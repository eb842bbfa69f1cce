"""Shared fixtures. ``make test`` fetches the assets first; nothing else comes from outside."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from hydra import compose, initialize_config_dir
from lxml import etree

from kailin_ray.cli.main import main
from kailin_ray.config import DistillConfig, check, conf_dir
from kailin_ray.io.cache import CACHE
from kailin_ray.mesh import MeshHierarchy

# No test asserts a time: a busy machine takes longer over an example, and so does a first call that compiles.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
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


@pytest.fixture(scope="session")
def config() -> DistillConfig:
    """The defaults of distill; its paths are made up."""
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return check(DistillConfig, compose("distill", ["documents=d", "index=i", "mesh=m", "out=o"]))


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
def kailin() -> Command:
    """Run the real command line in the project's root."""

    def run(*arguments: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kailin_ray", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture
def kailin_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command line in this process, as a process imports for seconds: for what is refused before Ray starts."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["kailin_ray", *map(str, arguments)])
        monkeypatch.chdir(ROOT)
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code, out, err)

    return run


@pytest.fixture(scope="session")
def corpus(kailin: Command, small_shard: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shard ingested by the command line."""
    out = tmp_path_factory.mktemp("ingested") / "corpus"
    done = kailin("ingest", f"source.path={small_shard}", f"out={out}")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def documents(kailin: Command, corpus: Path) -> Path:
    """Those of them with abstract and MeSH headings, selected by the command line."""
    out = corpus.with_name("documents")
    done = kailin("select", f"corpus={corpus}", f"out={out}", "filters.require_mesh=true")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def index(kailin: Command, documents: Path) -> Path:
    """An index of 80 of them, made by the command line."""
    out = documents.with_name("index")
    done = kailin("index", f"documents={documents}", f"out={out}", "limit=80")
    assert done.returncode == 0, done.stderr
    return out
