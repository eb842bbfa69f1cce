"""Values worked out by hand on the toy MeSH of tests/conftest.py, with the counts below.

count + 1: D10 3, D11 6, D12 4, D20 2, D21 5, D22 3, D23 4, D50 3, D51 4, D52 2; D99 has no tree number. N = 36.
freq: D10 3+6+4 = 13, D11 6, D12 4, D20 2+5+3+4 = 14, D21 5, D22 3+4 = 7, D23 4, D50 3+4+2+5 = 14 (D21 stands there
too), D51 4, D52 2, C 3+6+4+2+5+3+4 = 27, D 14.
IC: D11 ln 36/6 = 1.79176, D12 = D23 = D51 ln 36/4 = 2.19722, D10 ln 36/13 = 1.01857, D22 ln 36/7 = 1.63761,
D21 ln 36/5 = 1.97408, D50 = D ln 36/14 = 0.94446, C ln 36/27 = 0.28768, IC_max = IC(D52) = ln 18 = 2.89037.

D11, D12 meet in D10:  resnik 1.01857/2.89037 = 0.35240; lin 2·1.01857/(1.79176+2.19722) = 0.51069;
                       jc 1 - (3.98898 - 2.03714)/2.89037 = 0.32471; rel 0.51069·(1 - 13/36) = 0.32628
D22, D23 meet in D22:  resnik 1.63761/2.89037 = 0.56657; lin 3.27522/3.83483 = 0.85407;
                       jc 1 - 0.55961/2.89037 = 0.80639; rel 0.85407·29/36 = 0.68800
D21, D51 meet in D50:  resnik 0.32676; lin 1.88892/4.17130 = 0.45284; jc 1 - 2.28238/2.89037 = 0.21035;
                       rel 0.45284·22/36 = 0.27674
D11, D22 meet in C:    resnik 0.09953; lin 0.57536/3.42937 = 0.16777; jc 1 - 2.85401/2.89037 = 0.01258;
                       rel 0.16777·9/36 = 0.04194
D11, D23 and D22, D12 meet in C: resnik 0.09953; lin 0.14424 and 0.15004; jc 0 and 0; rel 0.03606 and 0.03751
D11, D51: no common ancestor. D11, D11: resnik 1.79176/2.89037 = 0.61991, rel 1 - 6/36 = 0.83333, lin and jc 1

kailin: the counts sum to 10 in each of C1, C2 and D1. IC_c: C1: D10 0, D11 -log10 0.5 = 0.30103, D12 -log10 0.3 =
0.52288 (the largest); C2: D20 0, D21 -log10 0.4 = 0.39794, D22 -log10 (0.2+0.3) = 0.30103, D23 0.52288 (the largest);
D1: D50 0, D51 0.52288, D52 1 (the largest), D21 0.39794.
D11, D12: LCA D10, x = 0, S = 0.82391: lin 0, jiang 1 - 0.82391 = 0.17609, rel 0: mean 0.05870
D22, D23: LCA D22, x = 0.30103/0.52288 = 0.57572, S = 0.82391: lin 1.3975 → 1, jiang 1.3275 → 1,
          rel 1.3975·(1 - 10^-0.30103) = 0.69877: mean 0.89959
D21, D22: LCA D20, x = 0, S = 0.69897: mean 0.30103/3 = 0.10034.  D21, D51: LCA D50, S = 0.92082: 0.07918/3 = 0.02639
D11, D22 share the letter but no first component: 0
"""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.similarity import AGGREGATES, MEASURES
from tests.conftest import MESH as FULL
from tests.conftest import TOY
from tests.support.mesh_reference import Reference

COUNTS = {
    "D10": 2, "D11": 5, "D12": 3, "D20": 1, "D21": 4, "D22": 2, "D23": 3, "D50": 2, "D51": 3, "D52": 1, "D99": 50,
}  # fmt: skip
BARE = MeshHierarchy.from_descriptors(TOY)
MESH = BARE.with_counts(COUNTS)
PLACED = [ui for ui, _, trees in TOY if trees]

#                    resnik   lin      jc       rel      kailin
GOLDEN = {
    ("D11", "D12"): [0.35240, 0.51069, 0.32471, 0.32628, 0.05870],
    ("D22", "D23"): [0.56657, 0.85407, 0.80639, 0.68800, 0.89959],
    ("D21", "D51"): [0.32676, 0.45284, 0.21035, 0.27674, 0.02639],
    ("D11", "D22"): [0.09953, 0.16777, 0.01258, 0.04194, 0.0],
    ("D21", "D22"): [None, None, None, None, 0.10034],
    ("D11", "D51"): [0.0, 0.0, 0.0, 0.0, 0.0],
    ("D11", "D11"): [0.61991, 1.0, 1.0, 0.83333, 1.0],
}
# A = {D11, D22}, B = {D12, D23}. mean: the four pairs / 4; bma: 2·(s(D11, D12) + s(D22, D23)) / 4.
GOLDEN_SETS = {
    "mean": [0.27951, 0.41476, 0.28278, 0.27196, 0.23957],
    "bma": [0.45949, 0.68238, 0.56555, 0.50714, 0.47915],
}


@pytest.mark.parametrize(("pair", "row"), GOLDEN.items())
def test_every_measure_by_hand(pair: tuple[str, str], row: list[float | None]) -> None:
    for measure, expected in zip(MEASURES, row, strict=True):
        if expected is not None:
            assert MESH.similarity(*pair, measure) == pytest.approx(expected, abs=1e-5), measure
            assert MESH.similarity(*reversed(pair), measure) == pytest.approx(expected, abs=1e-5), measure


@pytest.mark.parametrize(("aggregate", "row"), GOLDEN_SETS.items())
def test_every_aggregate_by_hand(aggregate: str, row: list[float]) -> None:
    for measure, expected in zip(MEASURES, row, strict=True):
        value = MESH.set_similarity(["D11", "D22"], ["D23", "D12"], measure, aggregate)
        assert value == pytest.approx(expected, abs=1e-5), measure


def test_descriptors_without_a_place_and_doubles_are_left_out_and_an_empty_set_is_missing() -> None:
    for measure in MEASURES:
        alone = MESH.set_similarity(["D11"], ["D12"], measure, "mean")
        assert MESH.set_similarity(["D11", "D99", "nonsense", "D11"], ["D12", "D12"], measure, "mean") == alone
        assert MESH.set_similarity(["D99"], ["D12"], measure) is None
        assert MESH.set_similarity([], [], measure) is None
    scores = MESH.score([["D11"], ["D99"], ["D11"]], [["D12"], ["D12"], []])
    assert scores.to_pylist() == [MESH.set_similarity(["D11"], ["D12"]), None, None]


def test_without_counts_the_information_content_is_intrinsic_and_kailin_has_none() -> None:
    # N = 10, freq(D10) = 3
    assert BARE.similarity("D11", "D12") == pytest.approx(np.log(10 / 3) / np.log(10))
    assert BARE.similarity("D11", "D12", "kailin") == 0.0
    assert BARE.similarity("D11", "D11", "kailin") == 1.0


def test_arrow_and_numpy_and_lists_give_the_same_scores() -> None:
    sources, contexts = [["D11", "D22"], [], ["D21", "D99"]], [["D12"], ["D12"], ["D51", "D50", "unknown"]]
    expected = MESH.score(sources, contexts).to_pylist()
    assert expected[1] is None
    arrow = [pa.array(sets, pa.list_(pa.string())) for sets in (sources, contexts)]
    assert MESH.score(*arrow).to_pylist() == expected
    assert MESH.score(*(array[1:] for array in arrow)).to_pylist() == expected[1:]
    assert MESH.score(*(pa.chunked_array([array[:1], array[1:]]) for array in arrow)).to_pylist() == expected
    assert MESH.score(*(array.cast(pa.large_list(pa.large_string())) for array in arrow)).to_pylist() == expected
    fixed = [pa.array([["D11"], ["D12"]], pa.list_(pa.string(), 1)), pa.array([["D11"], ["D11"]])]
    assert MESH.score(*fixed).to_pylist() == MESH.score([["D11"], ["D12"]], [["D11"], ["D11"]]).to_pylist()
    with pytest.raises(ValueError, match="must be a list array, not list_view"):
        MESH.score(pa.array([["D11"], ["D12"]], pa.list_view(pa.string())), fixed[1])
    nulls = [pa.array([*sets[:1], None, *sets[2:]], pa.list_(pa.string())) for sets in (sources, contexts)]
    assert MESH.score(*nulls).to_pylist() == expected
    numpy = [(np.cumsum([0, *map(len, sets)]), np.array([u for s in sets for u in s])) for sets in (sources, contexts)]
    assert MESH.score(*numpy).to_pylist() == expected
    coded = [(offsets, np.char.encode(uis, "utf-8")) for offsets, uis in numpy]
    assert MESH.score(*coded).to_pylist() == expected
    numbers = [(offsets, MESH.find(uis.tolist())) for offsets, uis in numpy]
    assert MESH.score(*numbers).to_pylist() == expected
    assert MESH.score([], []).to_pylist() == []


def test_kailin_is_0_where_nobody_holds_the_common_prefix() -> None:
    # Two orphans under C1.9, which is missing; above it D10 is not their LCA.
    rows = [*TOY, ("D90", "One", ["C1.9.1"]), ("D91", "Two", ["C1.9.2"])]
    mesh = MeshHierarchy.from_descriptors(rows, tolerate_orphans=True).with_counts(COUNTS | {"D90": 2, "D91": 3})
    assert mesh.similarity("D90", "D91", "kailin") == 0.0
    assert mesh.similarity("D90", "D91", "lin") > 0.0
    reference = Reference(rows, COUNTS | {"D90": 2, "D91": 3})
    for measure in MEASURES:
        for other in ("D91", "D11", "D10"):
            found = mesh.similarity("D90", other, measure)
            assert found == pytest.approx(reference.similarity("D90", other, measure)), (measure, other)


def test_wrong_input_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="D12345"):
        MESH.similarity("D12345", "D11")
    with pytest.raises(KeyError, match="D99"):
        MESH.similarity("D11", "D99")
    with pytest.raises(ValueError, match="unknown 'cosine'; allowed: resnik, lin, jc, rel, kailin"):
        MESH.similarity("D11", "D12", measure="cosine")
    with pytest.raises(ValueError, match="allowed: bma, mean"):
        MESH.set_similarity(["D11"], ["D12"], aggregate="max")
    with pytest.raises(ValueError, match="2 sources for 1 contexts"):
        MESH.score([["D11"], ["D12"]], [["D11"]])
    with pytest.raises(ValueError, match=r"descriptor numbers must lie in \[-1, 11\)"):
        MESH.score((np.array([0, 1]), np.array([99])), [["D11"]])
    with pytest.raises(ValueError, match="offsets: must be whole numbers that rise"):
        MESH.score((np.array([0, 5]), np.array([1])), [["D11"]])


UIS = st.lists(st.sampled_from([*PLACED, "D99", "unknown"]), max_size=6)


@given(
    st.dictionaries(st.sampled_from(PLACED), st.integers(0, 10**6)),
    UIS,
    UIS,
    st.sampled_from(MEASURES),
    st.sampled_from(AGGREGATES),
)
def test_properties_of_sets(counts: dict[str, int], a: list[str], b: list[str], measure: str, aggregate: str) -> None:
    mesh = BARE.with_counts(counts)
    value = mesh.set_similarity(a, b, measure, aggregate)
    assert (value is None) == (not {*a} & {*PLACED} or not {*b} & {*PLACED})
    assert value == pytest.approx(Reference(TOY, counts).sets(a, b, measure, aggregate), abs=1e-9)
    if value is not None:
        assert 0.0 <= value <= 1.0 + 1e-12
        assert value == pytest.approx(mesh.set_similarity(b, a, measure, aggregate))
        itself = mesh.set_similarity(a, a, measure, "bma")
        assert measure not in ("lin", "jc", "kailin") or itself == pytest.approx(1.0)


@settings(max_examples=30)
@given(st.dictionaries(st.sampled_from(PLACED), st.integers(0, 10**6)))
def test_a_descriptor_is_most_like_itself(counts: dict[str, int]) -> None:
    mesh = BARE.with_counts(counts)
    for measure in MEASURES:
        for a in PLACED:
            values = {b: mesh.similarity(a, b, measure) for b in PLACED}
            assert values[a] >= max(values.values()) - 1e-12


@pytest.fixture(scope="module")
def full() -> MeshHierarchy:
    """All of MeSH; descriptor i of the sorted UIs counts (i · 7919) mod 1000."""
    mesh = MeshHierarchy.load(FULL)
    return mesh.with_counts({ui.decode(): i * 7919 % 1000 for i, ui in enumerate(mesh.uis)})


def test_the_whole_of_mesh_agrees_with_the_slow_reference(full: MeshHierarchy) -> None:
    trees: dict[str, list[str]] = {ui.decode(): [] for ui in full.uis}
    for tree, holder in zip(full.tree_numbers.tolist(), full.tree_holder.tolist(), strict=True):
        trees[full.uis[holder].decode()].append(tree.decode())
    counts = {ui.decode(): int(count) for ui, count in zip(full.uis, full.counts, strict=True)}
    reference = Reference([(ui, "", held) for ui, held in trees.items()], counts)
    dice = random.Random(3)
    # Relatives, so that not every pair is a plain 0: descriptors under one category.
    near = [ui for ui, held in trees.items() if any(tree.startswith("C18") for tree in held)]
    for pool in (list(trees), near):
        for _ in range(60):
            a, b = dice.choices(pool, k=9), dice.choices(pool, k=7)
            for measure in ("resnik", "lin", "jc", "rel"):
                for aggregate in AGGREGATES:
                    expected = reference.sets(a, b, measure, aggregate)
                    assert full.set_similarity(a, b, measure, aggregate) == pytest.approx(expected, abs=1e-12)
    # Of kailin only what lies in the categories of type 2 diabetes matters.
    diabetes = [(u, "", [t for t in held if t[:3] in ("C18", "C19")]) for u, held in trees.items()]
    reference = Reference([row for row in diabetes if row[2]], counts)
    for other in ("D003922", "D003920", "D004700"):
        expected = reference.similarity("D003924", other, "kailin")
        assert full.similarity("D003924", other, "kailin") == pytest.approx(expected, abs=1e-12)


GOLDEN_FULL = {  # type 2 diabetes and ...
    "D003922": [0.44110, 0.76454, 0.72831, 0.76403, 0.08647],  # type 1 diabetes
    "D003920": [0.44110, 0.85164, 0.84631, 0.85106, 0.10394],  # diabetes mellitus
    "D009765": [0.27152, 0.49183, 0.43891, 0.48633, 0.0],  # obesity
    "D008175": [0.10933, 0.20419, 0.14778, 0.17075, 0.0],  # lung neoplasms
}
# {type 2 diabetes, obesity, Male} and {type 1 diabetes, insulin resistance, Female}
GOLDEN_FULL_SETS = {
    "bma": [0.39871, 0.69235, 0.65218, 0.69055, 0.06060],
    "mean": [0.35631, 0.62252, 0.57606, 0.61948, 0.03898],
}


def test_golden_values_on_the_whole_of_mesh(full: MeshHierarchy) -> None:
    # Printed once by full.similarity(...) and full.set_similarity(...) when the test above held: they pin both sides.
    for other, expected in GOLDEN_FULL.items():
        assert [full.similarity("D003924", other, measure) for measure in MEASURES] == pytest.approx(expected, abs=1e-5)
    source, context = ["D003924", "D009765", "D008297"], ["D003922", "D007333", "D005260"]
    for aggregate, expected in GOLDEN_FULL_SETS.items():
        found = [full.set_similarity(source, context, measure, aggregate) for measure in MEASURES]
        assert found == pytest.approx(expected, abs=1e-5)
