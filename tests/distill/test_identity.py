from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.config import DistillConfig
from kailin_ray.distill import identity
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import write_json


@pytest.mark.parametrize("begun", ["records", "parts/general"])
def test_a_start_binds_nobody_until_a_row_was_worked(
    config: DistillConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    made_from: dict[str, Any] = {"mesh": "a", "models": {"general": {"identity": "x"}}}
    monkeypatch.setattr(identity, "inputs", lambda _: made_from)
    write_json(tmp_path / "documents" / "manifest.json", {"updates": [{}]})
    mine = replace(config, documents=tmp_path / "documents", out=tmp_path / "run")
    other = replace(mine, retrieval=replace(config.retrieval, top_k=7))
    identity.open_run(mine)
    session = mine.out / "sessions" / "1.json"
    session.parent.mkdir()
    session.write_text("{}")
    identity.open_run(mine)
    assert session.exists()  # an engine that died before its first row took time all the same
    identity.open_run(other)
    assert not session.exists()
    (mine.out / begun).mkdir(parents=True)
    (mine.out / begun / "1.parquet").touch()
    identity.open_run(other)
    with pytest.raises(ConfigError, match=r"another retrieval.top_k \(7, now 4\)"):
        identity.open_run(mine)
