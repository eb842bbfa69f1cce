import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from kailin_ray.io import http
from kailin_ray.io.http import ATTEMPTS, CHUNK, Web, WebError
from tests.support.web_server import Site, served

CONTENT = bytes(range(256)) * 4_000  # of 1,024,000 bytes


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    with served() as site:
        site.files["/file"] = CONTENT
        yield site


def fetched(site: Site, path: Path, url: str = "/file") -> int:
    """How many bytes came, by what the client was told."""
    told: list[int] = []
    Web().download(site.address + url, path, told.append)
    assert path.read_bytes() == CONTENT
    return sum(told)


def test_a_dropped_connection_goes_on_where_it_broke_off(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [300_000, 1, 500_000]
    assert fetched(site, tmp_path / "f") == len(CONTENT)
    assert [one.headers.get("Range") for one in site.requests("/file")] == [
        None, "bytes=300000-", "bytes=300001-", "bytes=800001-",
    ]  # fmt: skip
    assert site.num_bytes("/file") == len(CONTENT)


def test_what_an_earlier_process_left_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT[:1_000_000])
    assert fetched(site, tmp_path / "f") == site.num_bytes("/file") == 24_000
    assert fetched(site, tmp_path / "f") == 0  # whole: the server has no byte more
    assert site.num_bytes("/file") == 24_000


def test_where_more_is_there_than_the_file_has_it_begins_anew(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT + b"of something else")
    assert fetched(site, tmp_path / "f") == len(CONTENT)


def test_a_server_that_ignores_ranges_sends_all_of_it(site: Site, tmp_path: Path) -> None:
    site.takes_ranges = False
    site.faults["/file"] = [300_000]
    assert fetched(site, tmp_path / "f") == 300_000 + len(CONTENT) == site.num_bytes("/file")


def test_a_server_that_sends_another_range_is_refused(site: Site, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT[:1_000])
    for given, fault in [("bytes 500-999/1000", "sends those from 500"), ("", "without a Content-Range")]:
        site.faults["/file"] = [(206, {"Content-Range": given})]
        with pytest.raises(WebError, match=fault):
            Web().download(f"{site.address}/file", tmp_path / "f", lambda _: None)
    assert (tmp_path / "f").read_bytes() == CONTENT[:1_000]


def test_it_gives_up_after_so_many_attempts_and_keeps_what_came(site: Site, tmp_path: Path) -> None:
    site.faults["/file"] = [10, *[0] * 20]
    with pytest.raises(WebError, match=r"/file: .*0 bytes read"):
        Web().download(f"{site.address}/file", tmp_path / "f", lambda _: None)
    assert len(site.requests("/file")) == ATTEMPTS
    assert (tmp_path / "f").read_bytes() == CONTENT[:10]


def test_progress_counts_the_attempts_anew(site: Site, tmp_path: Path) -> None:
    # Not one attempt more after each chunk than without any.
    site.faults["/file"] = [*[0] * (ATTEMPTS - 1), CHUNK, *[0] * (ATTEMPTS - 2), CHUNK, *[0] * (ATTEMPTS - 2)]
    assert fetched(site, tmp_path / "f") == len(CONTENT)


def test_a_busy_server_is_waited_for_as_long_as_it_says(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Web, "_wait", lambda _, seconds: waits.append(seconds))
    site.faults["/file"] = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    assert Web().text(f"{site.address}/file", len(CONTENT))
    assert [one for one in waits if one] == [7.0, pytest.approx(2 * http.PAUSE_S, rel=0.3)]
    site.faults["/file"] = [(503, {"Retry-After": "86400"})] * 9
    with pytest.raises(WebError, match="503 Service Unavailable"):
        Web().text(f"{site.address}/file", 10)
    assert len(site.requests("/file")) == 4


def test_what_does_not_pass_is_not_asked_again(site: Site) -> None:
    with pytest.raises(WebError, match=r"/none: 404 Not Found"):
        Web().text(f"{site.address}/none", 10)
    with pytest.raises(WebError, match="more than 10 bytes"):
        Web().text(f"{site.address}/file", 10)
    assert len(site.asked) == 2


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_a_redirect_stays_on_the_web(site: Site, target: str) -> None:
    site.faults["/file"] = [(302, {"Location": target})]
    with pytest.raises(WebError, match=target):
        Web().text(f"{site.address}/file", 10)
    assert len(site.asked) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_a_form_is_sent_to_no_other_server(site: Site, status: int) -> None:
    with served() as other:
        other.files["/form"] = b"taken"
        site.files["/form"] = b"whole"
        site.faults["/form"] = [(status, {"Location": f"{other.address}/form"})]
        with (
            pytest.raises(WebError, match=r"/form: redirected to .*/form: data is sent only to the same server"),
            Web().open_response("POST", f"{site.address}/form", data={"api_key": "S3CR3T"}),
        ):
            pass
        assert other.asked == []
        site.faults["/form"] = [(status, {"Location": "/form"})]
        with Web().open_response("POST", f"{site.address}/form", data={"api_key": "S3CR3T"}) as answer:
            assert answer.raw.read() == b"whole"
        site.faults["/form"] = [(303, {"Location": f"{other.address}/form"})]
        with Web().open_response("POST", f"{site.address}/form", data={"api_key": "S3CR3T"}):
            pass
        assert [asked.form for asked in other.asked] == [{}]


def test_a_redirect_from_https_to_http_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    web, asked = Web(), []

    def request(method: str, url: str, **_: Any) -> Any:
        asked.append(url)
        answer = requests.Response()
        answer._content = b""
        answer._content_consumed = True
        answer.status_code, answer.headers["Location"] = 302, "http://example.org/file"
        return answer

    monkeypatch.setattr(web._session, "request", request)
    with pytest.raises(WebError, match="from https to http"):
        web.text("https://example.org/file", 10)
    assert asked == ["https://example.org/file"]


def test_redirects_end(site: Site) -> None:
    site.faults["/file"] = [(302, {"Location": "/file"})] * 50
    with pytest.raises(WebError, match="more than 10 redirects"):
        Web().text(f"{site.address}/file", 10)


def test_no_server_is_said_in_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "PAUSE_S", 0.001)
    with pytest.raises(WebError, match=r"^http://127.0.0.1:1/: .*Connection refused$") as caught:
        Web().text("http://127.0.0.1:1/", 10)
    assert len(str(caught.value)) < 150


def test_the_client_says_who_it_is(site: Site) -> None:
    Web().text(f"{site.address}/file", len(CONTENT))
    assert site.asked[0].headers["User-Agent"].startswith("kailin_ray/")
    assert site.asked[0].headers["Accept-Encoding"] == "identity"


def test_no_more_requests_begin_in_a_second_than_allowed(site: Site) -> None:
    client = Web(per_second=50)
    begun = time.monotonic()
    threads = [threading.Thread(target=client.text, args=(f"{site.address}/file", len(CONTENT))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A lower bound only: slow machines are slower.
    assert time.monotonic() - begun >= 5 / 50
    assert len(site.asked) == 6
