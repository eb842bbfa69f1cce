"""Names of functions: verbs, or nouns for what is computed without effect, and never bare participles."""

import ast

from tests.conftest import ROOT

IRREGULAR = set(
    "bound built cut dealt drawn found given gone held kept known left lost made met said seen shown told".split()
)
VERBS = {"cut", "embed", "feed", "need", "seed"}
"""Verbs that look like participles."""
NAMES_OF_DATA = {"rejected"}
"""The function that makes the rows of a dataset's config of this name, as its siblings do."""


def participle(name: str) -> bool:
    first = name.strip("_").split("_")[0]
    return (first.endswith("ed") or first in IRREGULAR) and first not in VERBS


def test_no_function_of_the_package_is_a_bare_participle() -> None:
    trees = {path: ast.parse(path.read_text()) for path in (ROOT / "kailin_ray").rglob("*.py")}
    names = {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(names) > 500
    assert {name for name in names if participle(name)} == NAMES_OF_DATA
    assert participle("_found_models")
    assert not participle("find_models")
