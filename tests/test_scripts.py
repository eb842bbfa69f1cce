"""Our shell scripts: what shellcheck says of them, and what it does not know."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("cluster", "benchmarks", "requirements")
SCRIPTS = sorted(
    [path for folder in FOLDERS for end in ("*.sh", "*.sbatch") for path in (ROOT / folder).rglob(end)]
    + [ROOT / ".ci" / "run"]
)
every_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def unguarded(text: str) -> set[str]:
    """The arrays that begin empty and are expanded as they are: bash 4.2 and 4.3 call them unbound under `set -u`."""
    begin_empty = set(re.findall(r"(?<![\w$])(\w+)=\(\)", text))
    plain = re.sub(r'\$\{(\w+)\[@\]\+"\$\{\1\[@\]\}"\}', "", text)
    return begin_empty & set(re.findall(r"\$\{(\w+)\[[@*]\]", plain))


def test_the_scripts_are_these() -> None:
    """A folder that is forgotten would be checked by nobody."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    begins = [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]
    assert set(SCRIPTS) == {
        path for path in begins if path.read_bytes()[:2] == b"#!" and b"sh\n" in path.read_bytes()[:40]
    }


@every_script
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    """Its program comes with dev.lock."""
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@every_script
def test_an_empty_array_does_not_end_a_script(script: Path) -> None:
    assert unguarded(script.read_text()) == set()


def test_an_unguarded_array_is_found() -> None:
    begin = "set -u\noptions=() names=(a)\n"
    assert unguarded(begin + 'run "${options[@]}" "${names[@]}"') == {"options"}
    assert unguarded(begin + "for option in ${options[*]}; do :; done") == {"options"}
    assert unguarded(begin + 'run ${options[@]+"${options[@]}"}') == set()


@pytest.mark.parametrize(
    ("summary", "code", "said"),
    [
        ("3 passed in 1s", 0, ""),
        ("SKIPPED [1] tests/io/test_files.py:95: no other disk", 0, "Skipped here: no other disk"),
        (
            "SKIPPED [2] tests/cluster/test_watching.py:129: no `prometheus` on this machine: the dashboard's queries "
            "were not asked",
            0,
            "Skipped here: no `prometheus` on this machine: the dashboard's queries were not asked",
        ),
        ("SKIPPED [1] tests/a.py:1: no other disk today", 1, "does not have: no other disk today"),
        ("SKIPPED [1] tests/a.py:1: no network", 1, "does not have: no network"),
    ],
)
def test_a_test_that_is_skipped_for_another_reason_fails_the_run(
    tmp_path: Path, summary: str, code: int, said: str
) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "summary").write_text(f"{summary}\n")
    (tmp_path / "Makefile").write_text("check docs:\n\t@true\ntest:\n\t@cat summary\n")
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert said in done.stdout + done.stderr


def test_a_failing_test_fails_the_run(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / "Makefile").write_text("check docs:\n\t@true\ntest:\n\t@echo 1 failed; exit 1\n")
    assert subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, timeout=60).returncode != 0


def test_every_reason_that_is_allowed_is_a_test_s() -> None:
    lines = (ROOT / ".ci" / "allowed_skips").read_text().splitlines()
    reasons = [line for line in lines if not line.startswith("#")]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    assert len(reasons) == len(set(reasons)) > 0
    assert [reason for reason in reasons if f'"{reason}"' not in tests] == []
