import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from kailin_ray.config import DownloadConfig, check, conf_dir
from kailin_ray.corpus.sources.pubmed_ftp import NOTES, download
from kailin_ray.errors import ConfigError
from kailin_ray.io import http
from kailin_ray.io.http import WebError
from tests.conftest import Command
from tests.support.web_server import Site, served

# As NLM's server writes it.
HEAD = (
    "<html><head><title>Index of /pubmed/{what}</title></head><body><h1>Index of /pubmed/{what}</h1><pre>"
    '<a href="/pubmed/">Parent Directory</a>\n<a href="README.txt">README.txt</a>  2026-01-10 14:31  8.5K\n'
)
LINE = (
    '<a href="{name}">{name}</a>        2026-01-10 14:30   19M\n'
    '<a href="{name}.md5">{name}.md5</a>    2026-01-10 14:30   61\n'
)
HOSTILE = (
    '<a href="../../etc/pubmed26n0009.xml.gz">x</a><a href="https://elsewhere.example/pubmed26n0009.xml.gz">x</a>'
    '<a href="pubmed26n0009.xml.gz.exe">x</a><a href="%2e%2e/pubmed26n0009.xml.gz">x</a><a href="pubmed26n٠٠٠٩.xml.gz">'
)


def content(name: str) -> bytes:
    return gzip.compress(f"<PubmedArticleSet><!-- {name} -->{'x' * 3_000}</PubmedArticleSet>".encode(), 0, mtime=0)


def put(site: Site, what: str, *names: str) -> None:
    lines = "".join(LINE.format(name=name) for name in names)
    site.files[f"/{what}/"] = (HEAD.format(what=what) + lines + HOSTILE + "</pre></body></html>").encode()
    for name in names:
        site.files[f"/{what}/{name}"] = content(name)
        site.files[f"/{what}/{name}.md5"] = f"MD5({name})= {hashlib.md5(content(name)).hexdigest()}\n".encode()


BASELINE = [f"pubmed26n000{number}.xml.gz" for number in (1, 2, 3)]
UPDATE = "pubmed26n1275.xml.gz"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    with served() as site:
        put(site, "baseline", *BASELINE)
        put(site, "updatefiles", UPDATE)
        yield site


@pytest.fixture
def asked(site: Site, tmp_path: Path) -> DownloadConfig:
    return DownloadConfig(
        out=tmp_path / "pubmed", folders=("baseline", "updatefiles"), names="*", limit=None, connections=2,
        base_url=site.address,
    )  # fmt: skip


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != NOTES)


def test_all_that_is_listed_comes_checked_and_only_once(site: Site, asked: DownloadConfig) -> None:
    done = download(asked)
    assert (done.fetched, done.refused) == ([*BASELINE, UPDATE], {})
    assert files(asked.out) == [*BASELINE, UPDATE]
    for name in done.fetched:
        assert (asked.out / name).read_bytes() == content(name)
    notes = json.loads((asked.out / NOTES).read_text())
    assert list(notes) == done.fetched
    assert notes[UPDATE]["bytes"] == len(content(UPDATE))
    assert notes[UPDATE]["md5"] == hashlib.md5(content(UPDATE)).hexdigest()
    # Again, and one is new.
    put(site, "updatefiles", UPDATE, "pubmed26n1276.xml.gz")
    before = len(site.asked)
    done = download(asked)
    assert (done.fetched, done.there_already) == (["pubmed26n1276.xml.gz"], 4)
    assert sorted(one.path for one in site.asked[before:]) == [
        "/baseline/", "/updatefiles/", "/updatefiles/pubmed26n1276.xml.gz", "/updatefiles/pubmed26n1276.xml.gz.md5",
    ]  # fmt: skip


def test_names_and_limit_choose(asked: DownloadConfig) -> None:
    done = download(replace(asked, names=("*0002*", "*n127?.xml.gz")))
    assert done.fetched == [BASELINE[1], UPDATE]
    done = download(replace(asked, folders=("baseline",), limit=2))
    assert (done.fetched, done.there_already) == ([BASELINE[0]], 1)
    with pytest.raises(ConfigError, match=r"names: \*\.zip: none of 4 files, pubmed26n0001.xml.gz to pubmed26n1275"):
        download(replace(asked, names="*.zip"))


def test_drops_and_busy_answers_cost_no_byte_twice(site: Site, asked: DownloadConfig) -> None:
    path = f"/baseline/{BASELINE[0]}"
    site.faults[path] = [1_000, (503, {"Retry-After": "0"}), 1_500]
    site.faults["/baseline/"] = [(503, {})]
    site.faults[f"{path}.md5"] = [0]
    assert download(asked).refused == {}
    assert (asked.out / BASELINE[0]).read_bytes() == content(BASELINE[0])
    assert site.num_bytes(path) == len(content(BASELINE[0]))


def test_a_killed_download_goes_on_in_the_middle_of_a_file(site: Site, asked: DownloadConfig) -> None:
    path = f"/baseline/{BASELINE[0]}"
    site.faults[path] = [1_000, *[(503, {})] * 20]
    done = download(asked)
    assert done.refused == {BASELINE[0]: f"{site.address}{path}: 503 Service Unavailable"}
    assert files(asked.out) == [f".{BASELINE[0]}.partial", *BASELINE[1:], UPDATE]
    site.faults.clear()
    assert download(asked).fetched == [BASELINE[0]]
    assert site.num_bytes(path) == len(content(BASELINE[0]))
    assert files(asked.out) == [*BASELINE, UPDATE]


def test_a_wrong_md5_is_asked_for_twice_then_refused_by_name(site: Site, asked: DownloadConfig) -> None:
    site.files[f"/baseline/{BASELINE[1]}.md5"] = f"MD5({BASELINE[1]})= {'0' * 32}".encode()
    site.files[f"/baseline/{BASELINE[2]}.md5"] = b"<html>no such file</html>"
    done = download(asked)
    assert done.fetched == [BASELINE[0], UPDATE]
    assert f"{BASELINE[1]}: fetched twice, and its MD5 is " in done.refused[BASELINE[1]]
    assert "holds no MD5" in done.refused[BASELINE[2]]
    assert len(site.requests(f"/baseline/{BASELINE[1]}")) == 2
    assert files(asked.out) == [BASELINE[0], UPDATE]


def test_what_came_by_another_way_is_checked_and_not_fetched(site: Site, asked: DownloadConfig) -> None:
    asked.out.mkdir()
    whole, half, wrong = BASELINE
    (asked.out / whole).write_bytes(content(whole))
    (asked.out / half).write_bytes(content(half)[:100])
    (asked.out / wrong).write_bytes(b"?" * len(content(wrong)))
    assert download(asked).fetched == [*BASELINE, UPDATE]
    assert [site.num_bytes(f"/baseline/{name}") for name in BASELINE] == [
        0, len(content(half)) - 100, len(content(wrong)),
    ]  # fmt: skip
    for name in BASELINE:
        assert (asked.out / name).read_bytes() == content(name)


def test_a_listing_that_is_none_is_refused(site: Site, asked: DownloadConfig) -> None:
    site.files["/baseline/"] = HOSTILE.encode()
    with pytest.raises(WebError, match="/baseline/: lists no file such as"):
        download(asked)


def test_a_full_disk_ends_it_in_one_line(site: Site, asked: DownloadConfig) -> None:
    asked.out.mkdir()
    (asked.out / f".{BASELINE[0]}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"pubmed: No space left on device"):
        download(replace(asked, connections=1))


def test_a_folder_that_cannot_be_and_damaged_notes_are_refused(asked: DownloadConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="out: .*/file/in: Not a directory"):
        download(replace(asked, out=tmp_path / "file" / "in"))
    asked.out.mkdir()
    (asked.out / NOTES).write_text("{")
    with pytest.raises(ConfigError, match="downloads.json is damaged"):
        download(asked)


def test_the_command_says_what_it_did(
    kailin_subprocess: Command, kailin_here: Command, site: Site, tmp_path: Path
) -> None:
    site.files[f"/baseline/{BASELINE[1]}.md5"] = b"0" * 32
    given = (f"out={tmp_path}/pubmed", f"base_url={site.address}", "names=pubmed26n000?.xml.gz")
    done = kailin_subprocess("download", *given)
    assert done.returncode == 1, done.stderr
    assert "2 files fetched" in done.stdout
    assert "0 already present, 1 refused" in done.stdout
    said = [line for line in done.stderr.splitlines() if line.startswith("kailin_ray: ")]
    assert len(said) == 1
    assert f"refused: {site.address}/baseline/{BASELINE[1]}: fetched twice" in said[0]
    assert kailin_here("download", *given, "names=*0001*").returncode == 0


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ("base_url=file:///etc", "base_url: "),
        ("base_url=https://me:hunter2@mirror", "base_url: "),
        ("folders=[everything]", "folders.0: Input should be 'baseline' or 'updatefiles'"),
        ("folders=[]", "folders: "),
        ("connections=100", "connections: "),
        ("out=s3://bucket/x", "out: this must be a local path"),
    ],
)
def test_wrong_keys_are_refused(argument: str, fault: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        composed = compose("download", ["out=pubmed", argument])
    with pytest.raises(ConfigError, match=f"^{fault}") as caught:
        check(DownloadConfig, composed)
    assert "hunter2" not in str(caught.value)
