"""Values by hand on the toy MeSH of tests/conftest.py, without counts.

Every descriptor with a tree number counts 1, so N = 9 and
freq: D10 3, D11 1, D12 1, D20 3, D21 1, D22 1, D50 4 (itself, Insulin, Estrogen, Diabetes), D51 1, D52 1, C 6, D 4.
IC: leaves ln 9 = 2.1972, D10 and D20 ln 3 = 1.0986, D50 and D ln 9/4 = 0.8109, C ln 1.5 = 0.4055.

lin(D11, D12) = 2 · IC(D10) / (ln 9 + ln 9)             = 2 · 1.0986 / 4.3944 = 0.5
lin(D11, D22) = 2 · IC(C) / (2 ln 9)                    = 0.4055 / 2.1972     = 0.1845
lin(D21, D51) = 2 · IC(D50) / (2 ln 9)                  = 0.8109 / 2.1972     = 0.3691
lin(D21, D22) = 2 · IC(D20) / (2 ln 9)                  = 0.5
lin(D10, D11) = 2 · IC(D10) / (ln 3 + ln 9)             = 2.1972 / 3.2958     = 0.6667
lin(D11, D51) = 0, no common ancestor
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.mesh import MeshHierarchy
from tests.conftest import TOY

MESH = MeshHierarchy.from_descriptors(TOY)
PLACED = [ui for ui, _, trees in TOY if trees]

GOLDEN = {
    ("D11", "D12"): 0.5,
    ("D11", "D22"): np.log(1.5) / np.log(9),
    ("D21", "D51"): np.log(9 / 4) / np.log(9),
    ("D21", "D22"): 0.5,
    ("D10", "D11"): 2 / 3,
    ("D11", "D51"): 0.0,
    ("D11", "D11"): 1.0,
}


@pytest.mark.parametrize(("pair", "expected"), GOLDEN.items())
def test_lin_by_hand(pair: tuple[str, str], expected: float) -> None:
    assert MESH.similarity(*pair) == pytest.approx(expected)
    assert MESH.similarity(*reversed(pair)) == pytest.approx(expected)


def test_sets_by_hand() -> None:
    # A = {D11, D21}, B = {D12}: lin = 0.5 and 0.1845 (through C)
    low = np.log(1.5) / np.log(9)
    assert MESH.set_similarity(["D11", "D21"], ["D12"], aggregate="mean") == pytest.approx((0.5 + low) / 2)
    # bma: (0.5 + 0.1845 + max) / 3
    assert MESH.set_similarity(["D11", "D21"], ["D12"], aggregate="bma") == pytest.approx((0.5 + low + 0.5) / 3)


def test_descriptors_without_a_place_are_left_out_and_an_empty_set_is_missing() -> None:
    assert MESH.set_similarity(["D11", "D99", "nonsense"], ["D12"]) == MESH.set_similarity(["D11"], ["D12"])
    assert MESH.set_similarity(["D99"], ["D12"]) is None
    assert MESH.set_similarity([], []) is None
    scores = MESH.score([["D11"], ["D99"]], [["D12"], ["D12"]])
    assert scores[0] == pytest.approx(MESH.set_similarity(["D11"], ["D12"]))
    assert np.isnan(scores[1])


def test_wrong_names_are_refused() -> None:
    with pytest.raises(KeyError, match="D12345"):
        MESH.similarity("D12345", "D11")
    with pytest.raises(KeyError, match="D99"):
        MESH.similarity("D11", "D99")
    with pytest.raises(ValueError, match="unknown 'cosine'; allowed: lin"):
        MESH.similarity("D11", "D12", measure="cosine")
    with pytest.raises(ValueError, match="allowed: bma, mean"):
        MESH.set_similarity(["D11"], ["D12"], aggregate="max")


@given(
    st.dictionaries(st.sampled_from(PLACED), st.integers(0, 10**6)),
    st.lists(st.sampled_from(PLACED), min_size=1, max_size=6),
    st.lists(st.sampled_from(PLACED), min_size=1, max_size=6),
    st.sampled_from(["bma", "mean"]),
)
def test_sets_are_symmetric_bounded_and_like_themselves(
    counts: dict[str, int], a: list[str], b: list[str], aggregate: str
) -> None:
    mesh = MESH.with_counts(counts)
    value = mesh.set_similarity(a, b, aggregate=aggregate)
    assert value is not None
    assert 0.0 <= value <= 1.0 + 1e-12
    assert value == pytest.approx(mesh.set_similarity(b, a, aggregate=aggregate))
    assert mesh.set_similarity(a, a, aggregate="bma") == pytest.approx(1.0)
