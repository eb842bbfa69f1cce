import json

import numpy as np
import pytest

from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, draw, sketch
from kailin_ray.mesh import MeshHierarchy
from tests.corpus.selection.test_sampling import COUNTS, documents, random_documents

BRANCHES = {"letters": ["C", "D"], "categories": ["C1", "C2", "D1"]}


def test_counts_before_and_after_by_hand(toy_mesh: MeshHierarchy) -> None:
    mesh = toy_mesh.with_counts(COUNTS)
    table = documents((1, 1978, "D11 D12"), (2, 1978, "D11"), (3, 1978, "D21"), (4, 1978, "D99"))
    design = Design(size=3, seed=1, stratify_by="categories", alpha=0.0)
    whole = sketch(table, mesh, design)
    found = balance(whole, draw(whole, design), mesh, design)
    # Rates by frequency: C1 with 2 documents, C2 with 1, nowhere with 1; so one of each.
    assert found["num_documents"] == {"before": 4, "after": 3}
    assert found["design"]["stratify_by"] == "categories"
    assert [(row["stratum"], row["documents_before"], row["documents_after"]) for row in found["strata"]["strata"]] == [
        ("C1", 2, 1),
        ("C2", 1, 1),
        ("none", 1, 1),
    ]
    one, two, hormones = found["categories"]["branches"]
    drawn = 2 if 1 in draw(whole, design)["pmid"].to_pylist() else 1
    assert one == {
        "branch": "C1", "name": "Neoplasms", "documents_before": 2, "documents_after": 1,
        "share_before": 0.5, "share_after": 0.333333, "headings_before": 3, "headings_after": drawn,
    }  # fmt: skip
    assert (two["documents_before"], two["documents_after"], hormones["documents_after"]) == (1, 1, 1)
    # D21 has a place in C and one in D, and counts once in each.
    assert [row["documents_before"] for row in found["letters"]["branches"]] == [3, 1]
    assert [row["headings_before"] for row in found["letters"]["branches"]] == [4, 1]
    level = found["categories"]
    assert level["largest_share"] == {"before": 0.5, "after": 0.333333}
    assert level["entropy"] == {"before": 1.5, "after": pytest.approx(np.log2(3), abs=1e-4), "even": 1.585}
    assert level["divergence"]["from_even_after"] == 0.0 < level["divergence"]["from_even_before"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("major", [False, True])
def test_a_sample_of_everything_is_the_corpus(toy_mesh: MeshHierarchy, major: bool) -> None:
    mesh = toy_mesh.with_counts(COUNTS)
    design = Design(size=1000, seed=1, stratify_by="letters", period="decade", major_only=major)
    whole = sketch(random_documents(300), mesh, design)
    found = balance(whole, draw(whole, design), mesh, design)
    for level in ("letters", "categories"):
        assert [row["branch"] for row in found[level]["branches"]] == BRANCHES[level]
        for row in found[level]["branches"]:
            for count in ("documents", "share", "headings"):
                assert row[f"{count}_before"] == row[f"{count}_after"]
        assert found[level]["divergence"]["from_corpus"] == (None if major else 0.0)
        assert (
            found[level]["num_reached"]
            == found[level]["num_in_corpus"]
            == (0 if major else len(found[level]["branches"]))
        )


def test_counts_of_a_stratified_sample_are_those_of_its_documents(toy_mesh: MeshHierarchy) -> None:
    mesh, table = toy_mesh.with_counts(COUNTS), random_documents(400)
    design = Design(size=60, seed=2, stratify_by="categories")
    whole = sketch(table, mesh, design)
    chosen = draw(whole, design)
    rows = [row for row in table.to_pylist() if row["pmid"] in set(chosen["pmid"].to_pylist())]
    neoplasms = [sum(one["ui"] in ("D11", "D12") for one in row["mesh"]) for row in rows]
    found = balance(whole, chosen, mesh, design)["categories"]["branches"][0]
    assert (found["branch"], found["documents_after"]) == ("C1", sum(map(bool, neoplasms)))
    assert found["headings_after"] == sum(neoplasms)
