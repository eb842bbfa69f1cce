"""The ``compare`` command on runs made by hand, without a judge: what it says, draws, writes and refuses."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from kailin_ray.cli.train import compare
from kailin_ray.comparison import job
from kailin_ray.comparison.manifest import ComparisonManifest
from kailin_ray.comparison.report import MEASURES, format_comparison, lines
from kailin_ray.config import CompareConfig, load
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json
from kailin_ray.io.manifests import read_manifest
from tests.support.runs import MODEL, OF_OLD, Record, record, run

HELD_OUT = [pmid for pmid in range(1, 2_000) if is_held_out(pmid)][:60]
TRAINED_ON = [pmid for pmid in range(1, 100) if not is_held_out(pmid)]
HACKED = "What is the effect of the treatment on the outcome?"

Compared = Callable[..., dict[str, Any]]


def varied(pmid: int, seed: int) -> tuple[str, float]:
    dice = random.Random(f"{pmid} {seed}")
    words = " ".join(f"w{dice.randrange(10_000)}" for _ in range(dice.randint(6, 9)))
    return f"Does {words} help?", dice.uniform(0.2, 0.4)


def rows(pmids: list[int], seed: int = 0) -> list[Record]:
    return [record(pmid, varied(pmid, seed), varied(pmid, seed + 1), preferred=pmid % 2) for pmid in pmids]


@pytest.fixture
def compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compared:
    """Compare the runs ``old`` and ``new`` of the test's folder; return the figures and, as ``printed``, the output."""

    def compared(*overrides: str, out: str = "out") -> dict[str, Any]:
        keys = [f"old={tmp_path}/old", f"new={tmp_path}/new", f"out={tmp_path}/{out}", "judge=false", *overrides]
        assert compare(load(CompareConfig, "compare", keys)) == 0
        found: dict[str, Any] = json.loads((tmp_path / out / "comparison.json").read_text())
        return found | {"printed": capsys.readouterr().out}

    return compared


def test_a_run_and_its_copy_do_not_differ(tmp_path: Path, compared: Compared) -> None:
    run(tmp_path / "old", rows(HELD_OUT + TRAINED_ON))
    run(tmp_path / "new", rows(TRAINED_ON + HELD_OUT), pieces=5)
    found = compared()
    assert (found["abstracts"], found["held_out"]) == (60, True)
    assert {line.key for line in lines(found["figures"])} == {"accepted", *MEASURES} - {"judge", "judge_probability"}
    for figure in found["figures"].values():
        assert figure["difference"] == [0, 0, 0]
    ties = {"wins": 0, "ties": 60, "losses": 0, "missing": 0}
    assert [found["counts"][kind]["rule"] for kind in ("preferred", "general", "biomedical")] == [ties] * 3
    (said,) = found["said"]
    assert said.startswith("Not distinguishable: abstracts accepted; preferred question: wins under the MeSH rule, ")
    assert compared("held_out=false", out="all")["abstracts"] == len(HELD_OUT + TRAINED_ON)


def test_the_folder_and_the_terminal_tell_the_same(tmp_path: Path, compared: Compared) -> None:
    run(tmp_path / "old", rows(HELD_OUT))
    adapted = MODEL | {"adapter": "question-1"}
    new = run(
        tmp_path / "new",
        rows(HELD_OUT, seed=5),
        evaluation={"measure": "resnik", "aggregate": "bma", "method": "judge"},
    )
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").write_text(json.dumps(manifest | {"models": {"general": adapted}}))
    found = compared()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md", "comparison.json", "comparison.png", "manifest.json",
    ]  # fmt: skip
    assert list(tmp_path.glob(".*")) == []
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "general small + question-1" in readme
    assert "Besides the models, the runs differ in: `evaluation.method`." in readme
    assert lines(found["figures"])
    assert found["said"]
    for line in lines(found["figures"]):
        assert f"{line.measure.name} " in found["printed"]
        assert f"| {line.label} | " in readme
    for sentence in found["said"]:
        assert sentence in readme
        assert sentence in found["printed"]
    score = found["figures"]["general.mesh_score"]
    assert f"{score['old'][0]:.4f}  {score['new'][0]:.4f}" in found["printed"]
    width = matplotlib.image.imread(tmp_path / "out" / "comparison.png").shape[1]
    assert width == 1100  # what is drawn: test_plots.py
    made = read_json(tmp_path / "out" / "manifest.json")
    assert (made["kind"], made["new"]["models"]["general"]["adapter"]) == ("comparison", "question-1")
    assert made["config"]["held_out"] is True
    assert "figures" not in made
    assert set(made) - set(found) == {"format_version", "config"}


def test_the_library_gives_what_the_folder_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "old", rows(HELD_OUT))
    run(tmp_path / "new", rows(HELD_OUT, seed=5))
    keys = [f"{key}={tmp_path}/{key}" for key in ("old", "new", "out")]
    result = job.compare(load(CompareConfig, "compare", [*keys, "judge=false"]))
    assert capsys.readouterr().out == ""
    assert read_manifest(tmp_path / "out", ComparisonManifest, "comparison") == result.manifest
    found = read_json(tmp_path / "out" / "comparison.json")
    assert found["figures"] == result.measures.figures
    assert found["said"] == result.said
    assert format_comparison(result).startswith(f"{tmp_path}/out: 60 abstracts, held out\n")


def test_an_agent_that_asks_everybody_the_same_is_told(tmp_path: Path, compared: Compared) -> None:
    """Its score rises, as a reward that was learned instead of the task would."""
    run(tmp_path / "old", rows(HELD_OUT))
    hacked = [record(pmid, (HACKED, 0.6), varied(pmid, 1), preferred=pmid % 2) for pmid in HELD_OUT]
    run(tmp_path / "new", hacked)
    found = compared()
    better, worse, changed, unknown, *warnings = found["said"]
    assert better.startswith("Better: preferred question: wins under the MeSH rule, MeSH score; general question: ")
    assert "general question: distinct words, distinct pairs of words, distinct triples of words, repeats" in worse
    assert changed.startswith("Changed: ")
    assert "general question: words (longer)" in changed or "general question: words (shorter)" in changed
    assert "biomedical question: wins under the MeSH rule, MeSH score, gave a usable question, words" in unknown
    (warning,) = [text for text in warnings if text.startswith("Warning: general")]
    assert "gained in wins under the MeSH rule and MeSH score and is less varied (distinct words, " in warning
    assert warning.endswith("it may have learned the score and not the task.")
    assert not any("biomedical" in text for text in warnings)
    figures = found["figures"]
    assert figures["general.exact_repeats"]["new"] == [1, 1, 1]
    assert figures["general.commonest_opening"]["difference"][1] > 0
    assert found["counts"]["general"]["openings"]["new"] == "What is the"
    assert found["counts"]["general"]["rule"] == {"wins": 60, "ties": 0, "losses": 0, "missing": 0}
    assert figures["general.rule"]["new"] == [1, 1, 1]


def test_what_is_worse_is_called_worse_and_counted_by_reason(tmp_path: Path, compared: Compared) -> None:
    run(tmp_path / "old", rows(HELD_OUT))
    fewer = rows(HELD_OUT, seed=9)
    for row in fewer[:40]:
        row |= {"candidates": row["candidates"][:1], "preferred": None, "status": "rejected", "reason": "no_preference"}
    for row in fewer[:10]:
        row |= {"candidates": None, "reason": "no_valid_question"}
    run(tmp_path / "new", fewer)
    found = compared()
    (worse,) = [text for text in found["said"] if text.startswith("Worse: ")]
    assert worse.startswith("Worse: abstracts accepted; preferred question: gave a usable question")
    assert found["counts"]["not_accepted"] == {"old": {}, "new": {"no_preference": 30, "no_valid_question": 10}}
    assert "not accepted, no_preference: 0 old, 30 new" in (tmp_path / "out" / "README.md").read_text()
    asked = {kind: found["figures"][f"{kind}.asked"] for kind in ("preferred", "general", "biomedical")}
    assert [round(60 * one["new"][0]) for one in asked.values()] == [20, 50, 20]
    # What is not there on one side is not compared.
    assert found["figures"]["biomedical.mesh_score"]["abstracts"] == 20
    assert found["counts"]["biomedical"]["rule"]["missing"] == 40


def test_of_a_few_abstracts_nothing_is_said(tmp_path: Path, compared: Compared) -> None:
    run(tmp_path / "old", [record(pmid, ("Why is it so?", 0.1), None, 0) for pmid in HELD_OUT[:3]])
    run(tmp_path / "new", [record(pmid, ("Does it help them?", 0.2), None, 0) for pmid in HELD_OUT[:3]])
    found = compared()
    assert found["figures"]["general.mesh_score"]["difference"] == pytest.approx([0.1, 0.1, 0.1])
    (said,) = found["said"]
    assert said.startswith("Too few to tell (under 20 abstracts): abstracts accepted; preferred question: wins")
    assert "biomedical question: gave a usable question." in said  # of which there is no other figure


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"documents": OF_OLD["documents"] | {"id": "d2"}},
            r"new: .*/new has other documents \(d2\) than .*/old \(d1\)",
        ),
        ({"kind": "dataset"}, "new: .*/new holds dataset, not run"),
        ({"sha256": {"mesh": "m2"}}, "new: .*/new was scored with another mesh than .*/old"),
        ({"config": {"evaluation": {"measure": "lin", "aggregate": "bma"}}}, "scored with another evaluation.measure"),
        (None, "new: .*/new has no manifest.json: not made by `distill`, or not finished"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(
    tmp_path: Path, compared: Compared, change: dict[str, Any] | None, said: str
) -> None:
    run(tmp_path / "old", rows(HELD_OUT))
    note = run(tmp_path / "new", rows(HELD_OUT)) / "manifest.json"
    if change is None:
        note.unlink()
    else:
        note.write_text(json.dumps(json.loads(note.read_text()) | change))
    with pytest.raises(ConfigError, match=said):
        compared()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, compared: Compared) -> None:
    run(tmp_path / "old", rows(HELD_OUT[:3]))
    run(tmp_path / "new", rows(HELD_OUT[:3]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="out: .*/out exists; remove it or choose another"):
        compared()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
