import logging
import os
from pathlib import Path

import pytest

from kailin_ray.io.logs import log_to, warn_on_terminal
from kailin_ray.io.terminal import output_to

LOGGER = logging.getLogger("kailin_ray.test")


def test_a_log_holds_time_and_level_and_ends_with_its_block(tmp_path: Path) -> None:
    with log_to(tmp_path / "logs" / "driver.log"):
        LOGGER.info("begun")
        LOGGER.debug("too much")
    LOGGER.info("after")
    (line,) = (tmp_path / "logs" / "driver.log").read_text().splitlines()
    assert line.endswith(" INFO kailin_ray.test: begun")
    assert logging.getLogger("kailin_ray").level == logging.NOTSET


def test_a_level_that_a_user_set_stays(tmp_path: Path) -> None:
    root = logging.getLogger("kailin_ray")
    root.setLevel(logging.ERROR)
    try:
        with log_to(tmp_path / "log"):
            LOGGER.warning("not wanted")
    finally:
        root.setLevel(logging.NOTSET)
    assert not (tmp_path / "log").exists()


def test_warnings_reach_the_terminal_while_the_output_goes_to_a_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger("kailin_ray")
    before = list(root.handlers)
    warn_on_terminal()
    try:
        with output_to(tmp_path / "log"), log_to(tmp_path / "messages"):
            os.write(2, b"from C++\n")
            LOGGER.warning("disk almost full")
            LOGGER.info("for the log alone")
    finally:
        root.handlers = before
    assert capfd.readouterr().err == "kailin_ray: disk almost full\n"
    assert (tmp_path / "log").read_text() == "from C++\n"
    assert len((tmp_path / "messages").read_text().splitlines()) == 2
