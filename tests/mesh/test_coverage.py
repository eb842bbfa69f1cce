import numpy as np
import pytest

from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.coverage import coverage, divergence


def test_spread_and_coverage_by_hand(toy_mesh: MeshHierarchy) -> None:
    # The corpus: D11 in C1; D21 in C2 and D1; D52 in D1; D99 nowhere. Accepted: D11 only.
    mesh = toy_mesh.with_counts({"D11": 4, "D21": 2, "D52": 1, "D99": 9})
    found = coverage(mesh, accepted={"D11": 3, "D99": 3}, rejected={"D21": 1, "unknown": 5})
    assert found["letters"]["branches"] == [
        {"branch": "C", "name": "Diseases", "corpus": 6, "accepted": 3, "rejected": 1},
        {"branch": "D", "name": "Chemicals and Drugs", "corpus": 3, "accepted": 0, "rejected": 1},
    ]
    assert found["categories"]["branches"] == [
        {"branch": "C1", "name": "Neoplasms", "corpus": 4, "accepted": 3, "rejected": 0},
        {"branch": "C2", "name": "Metabolic Diseases", "corpus": 2, "accepted": 0, "rejected": 1},
        {"branch": "D1", "name": "Hormones", "corpus": 3, "accepted": 0, "rejected": 1},
    ]
    assert (found["letters"]["num_in_corpus"], found["letters"]["num_reached"]) == (2, 1)
    assert (found["categories"]["num_in_corpus"], found["categories"]["num_reached"]) == (3, 1)
    # Letters: corpus (2/3, 1/3), accepted (1, 0), their middle (5/6, 1/6).
    expected = (2 / 3 * np.log2(4 / 5) + 1 / 3 * np.log2(2) + np.log2(6 / 5)) / 2
    assert found["letters"]["divergence"] == pytest.approx(expected, abs=1e-4)


def test_a_descriptor_in_two_branches_of_one_letter_counts_once_there() -> None:
    mesh = MeshHierarchy.from_descriptors(
        [("D1", "One", ["C1"]), ("D2", "Two", ["C2"]), ("D3", "Both", ["C1.1", "C2.1"])]
    )
    found = coverage(mesh.with_counts({"D3": 5}), {}, {})
    assert [row["corpus"] for row in found["letters"]["branches"]] == [5]
    assert [row["corpus"] for row in found["categories"]["branches"]] == [5, 5]


def test_divergence_lies_between_alike_and_nothing_shared() -> None:
    assert divergence(np.array([2, 4]), np.array([1, 2])) == 0.0
    assert divergence(np.array([2, 0]), np.array([0, 3])) == 1.0
    assert divergence(np.array([2, 4]), np.array([0, 0])) is None
