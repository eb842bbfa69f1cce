"""The line of a run, drawn from accounts that the test makes up."""

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tqdm import tqdm

from kailin_ray.config import DistillConfig
from kailin_ray.distill import monitor
from kailin_ray.distill.monitor import LINE, Watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in self.getvalue():
            assert time.monotonic() < deadline, self.getvalue()
            time.sleep(0.02)


class Engine:
    """A replica's account; its clock goes on by a second at each look."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.account: dict[str, Any] = {
            "stage": "all", "seconds": 0.0, "ready": False, "in_flight": 0, "completion_tokens": 0, "rows": {},
            "reasons": {},
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        self.account = self.account | {"seconds": self.account["seconds"] + 1.0}
        if self.account["ready"]:
            self.account["completion_tokens"] += 40
        return {
            "accounts": {"a": self.account},
            "num_open": self.account["in_flight"],
            "num_left": 0,
            "warnings": self.warnings,
        }


@pytest.fixture
def watched(config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Terminal], Watch]:
    """A watch over 300 rows of one engine, without Ray."""
    monkeypatch.setattr(monitor, "POLL_S", 0.02)
    monkeypatch.setattr(monitor, "RunMetrics", lambda name: SimpleNamespace(show=lambda *_: None))
    monkeypatch.setattr(monitor.ray, "get", lambda state, timeout: state)

    def watch(engine: Engine, terminal: Terminal) -> Watch:
        progress = SimpleNamespace(state=SimpleNamespace(remote=engine.state))
        session: Any = SimpleNamespace(update=lambda *_: None)
        phase: Any = (SimpleNamespace(stage=SimpleNamespace(name="all"), replicas=1),)
        asked = replace(config, out=tmp_path / "run")
        return Watch(progress, session, 0, phase, (300, 0), asked, threading.Event(), terminal)

    return watch


def test_the_line_moves_before_a_row_is_done(watched: Callable[[Any, Terminal], Watch]) -> None:
    engine, terminal = Engine(), Terminal()
    with watched(engine, terminal):
        terminal.wait_for("engines ready 0 of 1, begun 1: 0/300")
        assert "in flight" not in terminal.getvalue()
        engine.account |= {"ready": True, "in_flight": 64}
        terminal.wait_for("distill: 0/300   0% [")
        terminal.wait_for("? abstracts/s, 64 calls in flight, 40 tokens/s]")
        engine.account |= {"rows": {"ok": 2, "rejected": 1}, "in_flight": 61}
        terminal.wait_for("ok=2, rejected=1, 61 calls in flight, 40 tokens/s]")
    # What is left standing says what became of the rows, and no more.
    last = terminal.getvalue().rstrip().rpartition("\r")[2]
    assert last.startswith("distill: 3/300   1% [")
    assert last.endswith("ok=2, rejected=1]")


def test_each_warning_is_shown_once(
    watched: Callable[[Any, Terminal], Watch], caplog: pytest.LogCaptureFixture
) -> None:
    engine, terminal = Engine(), Terminal()
    with watched(engine, terminal):
        engine.warnings.append("all: m reasons\x1b before it answers")
        terminal.wait_for("0/300")
        engine.account |= {"ready": True, "in_flight": 64}
        terminal.wait_for("64 calls in flight")
        engine.account |= {"in_flight": 62}
        terminal.wait_for("62 calls in flight")
    assert [record.message for record in caplog.records] == ["all: m reasons\\x1b before it answers"]


def test_the_line_is_cut_where_the_terminal_ends() -> None:
    meter = {"n": 12, "total": 300, "elapsed": 80, "bar_format": LINE, "unit": " abstracts", "prefix": "distill: "}
    whole = tqdm.format_meter(**meter, postfix="ok=10, rejected=2, 64 calls in flight, 850 tokens/s")
    assert whole == (
        "distill: 12/300   4% [01:20<32:00,  6.67s/ abstracts, ok=10, rejected=2, 64 calls in flight, 850 tokens/s]"
    )
    assert tqdm.format_meter(**meter, ncols=60, postfix="ok=10, rejected=2") == whole[:60]
