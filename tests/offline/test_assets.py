import contextlib
import hashlib
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kailin_ray.io import http
from kailin_ray.offline.assets import ASSETS, Asset, FetchError, Url, _extract, fetch
from tests.support.web_server import Site, served

CONTENT = bytes(range(256)) * 4_000


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    with served() as site:
        site.files = {"/good": CONTENT, "/broken": CONTENT}
        yield site


@pytest.fixture
def address(site: Site) -> str:
    return site.address


def asset(*urls: str, digest: str = hashlib.sha256(CONTENT).hexdigest()) -> dict[str, Asset]:
    return {
        "thing": Asset(
            target="thing.bin", size_mb=1, licence="none", sources=tuple(Url(url=u, sha256=digest) for u in urls)
        )
    }


def test_sources_are_tried_in_order_and_what_is_in_place_is_left_alone(tmp_path: Path, address: str) -> None:
    to = tmp_path / "assets"
    path = fetch("thing", to, asset(f"{address}/missing", f"{address}/good"))
    assert path.read_bytes() == CONTENT
    assert fetch("thing", to, asset("http://127.0.0.1:1/never-asked")) == path


def test_a_download_that_broke_off_goes_on_from_there(tmp_path: Path, site: Site) -> None:
    to = tmp_path / "assets"
    site.faults["/broken"] = [500_000, *[0] * 20]
    with pytest.raises(FetchError, match=r"every source failed: .*/broken: "):
        fetch("thing", to, asset(f"{site.address}/broken"))
    (kept,) = to.glob(".broken.*.download")
    assert kept.stat().st_size == 500_000
    site.faults.clear()
    assert fetch("thing", to, asset(f"{site.address}/broken")).read_bytes() == CONTENT
    assert site.num_bytes("/broken") == len(CONTENT)
    assert [p.name for p in to.iterdir() if not p.name.endswith(".json")] == ["thing.bin"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(tmp_path: Path, address: str) -> None:
    to = tmp_path / "assets"
    with pytest.raises(FetchError, match=r"thing: every source failed: .*/good: checksum mismatch") as caught:
        fetch("thing", to, asset(f"{address}/good", f"{address}/missing", digest="0" * 64))
    assert "/missing: 404 Not Found" in str(caught.value)
    assert list(to.iterdir()) == []


def test_a_changed_asset_is_noticed(tmp_path: Path, address: str) -> None:
    to = tmp_path / "assets"
    fetch("thing", to, asset(f"{address}/good")).write_bytes(b"tampered")
    with pytest.raises(FetchError, match="has changed since it was fetched"):
        fetch("thing", to, asset(f"{address}/good"))


def test_what_somebody_else_put_there_is_left_alone(tmp_path: Path, address: str) -> None:
    (tmp_path / "thing.bin").write_bytes(b"precious")
    with pytest.raises(FetchError, match="exists and was not fetched"):
        fetch("thing", tmp_path, asset(f"{address}/good"))
    assert (tmp_path / "thing.bin").read_bytes() == b"precious"


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(FetchError, match=r"unknown 'mush'; allowed: mesh, pubmed20n0014"):
        fetch("mush", Path("nowhere"))


def test_a_member_that_climbs_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.whl"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("model/../../escaped", "x")
    into = tmp_path / "into"
    into.mkdir()
    with zipfile.ZipFile(archive) as opened, pytest.raises(FetchError, match="outside its folder"):
        _extract(opened, "model/../../escaped", into, "../../escaped")
    assert not (tmp_path.parent / "escaped").exists()


def test_every_asset_has_a_licence_and_a_checked_source() -> None:
    for entry in ASSETS.values():
        assert entry.licence
        assert entry.sources
        for source in entry.sources:
            assert len(getattr(source, "sha256", "") or getattr(source, "revision", "")) in (40, 64)


@pytest.mark.parametrize(
    ("member", "kind"),
    [("model/../../escaped", 0), ("/{at}/escaped", 0), ("model//{at}/escaped", 0), ("model/link", stat.S_IFLNK)],
)
def test_no_member_of_an_archive_is_written_outside(tmp_path: Path, member: str, kind: int) -> None:
    into = tmp_path / "into"
    into.mkdir()
    info = zipfile.ZipInfo(member.format(at=tmp_path))
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.whl", "w") as made:
        made.writestr(info, "../escaped")
        made.writestr("model/link/through", "x")
    with zipfile.ZipFile(tmp_path / "evil.whl") as opened:
        for name in opened.namelist():
            with contextlib.suppress(FetchError, OSError):
                _extract(opened, name, into, name.removeprefix("model/"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.whl", "into"]
    assert not [path for path in into.rglob("*") if path.is_symlink()]
