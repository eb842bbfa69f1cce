"""Which process of several runs a test: those that share a Ray session run in one, and so do those of a file.

One session has the engines, and one has none, so that both processes have work for long.

The processes collect the tests and note each one's group in a file; the one that deals them out reads it. (pytest-xdist
has ``--dist=loadgroup`` for this, which pytest 9.2 broke.)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from kailin_ray.io.files import write_json

SESSIONS = {"engines": "engines", "ray_here": "Ray", "head": "a cluster's head"}
"""Fixtures that start what all of their tests share, and the group's name: the first of them that a test has."""
FIRST = (
    "engines", "Ray", "tests/cli/test_hostile.py", "tests/distill/test_pipeline.py", "a cluster's head",
    "tests/distill/test_object_store.py",
)  # fmt: skip
"""Groups in the order in which they begin: the longest ones, so that none of them is left for the end."""


def group_of(item: pytest.Item) -> str:
    """The group of a test: what the marker ``process`` says, its session, or its file."""
    if marker := item.get_closest_marker("process"):
        return str(marker.args[0])
    sessions = [group for name, group in SESSIONS.items() if name in _fixtures(item)]
    return sessions[0] if sessions else item.nodeid.partition("::")[0]


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


def note_groups(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests so that long groups begin first, and note the groups.

    Of a group begin those that need no documents, which the other process may be making.
    """
    groups = {item.nodeid: group_of(item) for item in items}
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: (order.get(groups[item.nodeid], len(order)), "documents" in _fixtures(item)))
    write_json(_base(config) / "groups.json", groups)


def _base(config: Any) -> Path:
    path: Path = config._tmp_path_factory.getbasetemp()
    return path


class ByGroup(LoadScopeScheduling):
    """Deals out the groups one after another, each to the process that is out of work."""

    def __init__(self, config: Any, log: Any):
        super().__init__(config, log)
        config.option.loadscopereorder = False
        self._groups: dict[str, str] = {}

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        note, *_ = _base(self.config).glob("popen-*/groups.json")
        self._groups = json.loads(note.read_text())
        super().add_node_collection(node, collection)

    def _split_scope(self, nodeid: str) -> str:
        return self._groups[nodeid]
