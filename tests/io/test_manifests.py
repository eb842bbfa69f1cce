from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json, write_json
from kailin_ray.io.manifests import (
    Manifest,
    has_manifest,
    manifest_checksum,
    read_manifest,
    remove_manifest,
    write_manifest,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    rows: int


@dataclass(frozen=True, kw_only=True)
class Boxes(Manifest):
    FORMAT_VERSION: ClassVar[int] = 2
    OLDEST_VERSION: ClassVar[int] = 1
    COMMAND: ClassVar[str] = "pack"
    kind: Literal["boxes"] = "boxes"
    parts: tuple[Part, ...]
    note: str | None = None


BOXES = Boxes(parts=(Part(name="a", rows=1), Part(name="b", rows=2)))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert not has_manifest(tmp_path)
    write_manifest(tmp_path, BOXES)
    assert read_manifest(tmp_path, Boxes, "in") == BOXES
    assert list(read_json(tmp_path / "manifest.json"))[:2] == ["kind", "format_version"]
    before = manifest_checksum(tmp_path)
    write_manifest(tmp_path, replace(BOXES, note="changed"))
    assert manifest_checksum(tmp_path) != before
    remove_manifest(tmp_path)
    assert not has_manifest(tmp_path)


def test_a_manifest_without_a_version_is_the_first_and_may_say_more(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"kind": "boxes", "parts": [{"name": "a", "rows": 1}], "other": 1})
    assert read_manifest(tmp_path, Boxes, "in").parts == (Part(name="a", rows=1),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, r"in: .* has no manifest.json: not made by `pack`, or not finished"),
        ("{", r"in: .*manifest.json is damaged: "),
        ("[]", r"in: .* holds something else, not boxes"),
        ('{"kind": "cups"}', r"in: .* holds cups, not boxes"),
        ('{"kind": "boxes", "format_version": 3}', r"in: .* is of format version 3; this kailin_ray reads up to 2"),
        ('{"kind": "boxes", "format": 0}', r"in: .* was made by an earlier version of kailin_ray; make it again"),
        ('{"kind": "boxes", "parts": [{"name": "a"}]}', r"in: .* is damaged: parts.0.rows: Field required"),
    ],
)
def test_what_is_no_such_folder_is_refused(tmp_path: Path, values: str | None, message: str) -> None:
    if values is not None:
        (tmp_path / "manifest.json").write_text(values)
    with pytest.raises(ConfigError, match=message):
        read_manifest(tmp_path, Boxes, "in")
    with pytest.raises(ConfigError, match="is not a directory"):
        read_manifest(tmp_path / "missing", Boxes, "in")
