from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kailin_ray.config import DistillConfig
from kailin_ray.dataset.run import UsedModel
from kailin_ray.distill import identity
from kailin_ray.distill.preflight import Inputs
from kailin_ray.errors import ConfigError


@pytest.mark.parametrize("begun", ["records", "phases/general"])
def test_a_start_binds_nobody_until_a_row_was_worked(
    config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    made_from = identity.MadeFrom(
        documents="d",
        index="i",
        mesh="a",
        models={"general": UsedModel(name="m", revision=None, adapter=None, identity="x")},
        prompts={},
        schema="s",
    )
    monkeypatch.setattr(identity, "identify", lambda *_: made_from)
    documents: Any = SimpleNamespace(path=tmp_path / "documents", manifest=SimpleNamespace(updates=[1]))
    index: Any = SimpleNamespace(path=tmp_path / "index", manifest=SimpleNamespace(updates=[1]))
    index.path.mkdir()
    (index.path / "manifest.json").touch()
    opened = Inputs(documents=documents, index=index, source=None, trained={})
    mine = replace(config, documents=tmp_path / "documents", out=tmp_path / "run")
    other = replace(mine, retrieval=replace(config.retrieval, top_k=7))
    assert identity.open_run(mine, opened) == (made_from, 0)
    session = mine.out / "sessions" / "1.json"
    session.parent.mkdir()
    session.write_text("{}")
    identity.open_run(mine, opened)
    assert session.exists()  # an engine that died before its first row took time all the same
    identity.open_run(other, opened)
    assert not session.exists()
    (mine.out / begun).mkdir(parents=True)
    (mine.out / begun / "1.parquet").touch()
    identity.open_run(other, opened)
    with pytest.raises(ConfigError, match=r"another retrieval.top_k \(7, now 4\)"):
        identity.open_run(mine, opened)
