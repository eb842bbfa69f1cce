import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.mesh import MeshHierarchy
from tests.conftest import MESH, TOY


def ancestors(mesh: MeshHierarchy, ui: str) -> list[str]:
    """UIs and letters of a descriptor's ancestors, as they stand in the hierarchy."""
    d = int(mesh.find([ui])[0])
    names = [*mesh.uis.tolist(), *mesh.letters.tolist()]
    return [names[n].decode() for n in mesh.ancestor_nodes[mesh.ancestor_offsets[d] : mesh.ancestor_offsets[d + 1]]]


def test_ancestors_include_the_descriptor_itself_and_the_category_letter(toy_mesh: MeshHierarchy) -> None:
    # The more informative first: without counts, the rarer.
    assert ancestors(toy_mesh, "D11") == ["D11", "D10", "C"]
    assert ancestors(toy_mesh, "D10") == ["D10", "C"]
    assert ancestors(toy_mesh, "D23") == ["D23", "D22", "D20", "C"]
    # Diabetes stands in two places.
    assert set(ancestors(toy_mesh, "D21")) == {"D21", "D20", "C", "D50", "D"}
    assert ancestors(toy_mesh, "D99") == []


def test_frequency_and_information_content_by_hand(toy_mesh: MeshHierarchy) -> None:
    counted = toy_mesh.with_counts({"D11": 3, "D21": 1, "D99": 100, "unknown": 5})
    # count + 1: D10 1, D11 4, D12 1, D20 1, D21 2, D22 1, D23 1, D50 1, D51 1, D52 1 (D99 has no tree number): N = 14
    assert counted.total == 14
    frequency = dict(zip([u.decode() for u in counted.uis], counted.frequency.tolist(), strict=False))
    # D10: D10 + D11 + D12; D20: D20 + D21 + D22 + D23; D22: D22 + D23; D50: D50 + D51 + D52 + D21
    assert frequency == {
        "D10": 6, "D11": 4, "D12": 1, "D20": 5, "D21": 2, "D22": 2, "D23": 1, "D50": 5, "D51": 1, "D52": 1, "D99": 0,
    }  # fmt: skip
    assert counted.frequency[11:].tolist() == [11, 5]  # letters C and D
    assert counted.information_content[0] == pytest.approx(-np.log(6 / 14))
    assert counted.max_information_content == pytest.approx(np.log(14))
    assert toy_mesh.counts.sum() == 0  # with_counts made a new object


@given(st.dictionaries(st.sampled_from([ui for ui, _, _ in TOY]), st.integers(0, 10**9)))
def test_information_content_never_rises_towards_the_root(counts: dict[str, int]) -> None:
    mesh = MeshHierarchy.from_descriptors(TOY).with_counts(counts)
    for d in range(len(mesh.uis)):
        nodes = mesh.ancestor_nodes[mesh.ancestor_offsets[d] : mesh.ancestor_offsets[d + 1]]
        ic = mesh.information_content[nodes]
        assert (ic <= mesh.information_content[d]).all()
        assert (np.diff(ic) <= 0).all()
        assert (ic >= 0).all()


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "no descriptors"),
        ([*TOY, ("D10", "Again", ["C9"])], "UI given twice: D10"),
        ([*TOY, ("D90", "Thief", ["C1.1"])], "tree number held twice: C1.1"),
        ([*TOY, ("D90", "Orphan", ["C7.1"])], "orphan tree number, its parent missing: C7.1"),
        ([*TOY, ("D90", "Odd", ["c7"])], "malformed tree number: c7"),
        ([("D90", "Many", [f"C7.{i}" for i in range(7)])], r"C7\.0, C7\.1, C7\.2, C7\.3, C7\.4 and 2 more"),
    ],
)
def test_a_broken_hierarchy_is_refused_by_name(rows: list[tuple[str, str, list[str]]], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        MeshHierarchy.from_descriptors(rows)


@pytest.mark.parametrize("count", [-1, 1.5, "3", None])
def test_what_is_no_count_is_refused_by_name(toy_mesh: MeshHierarchy, count: object) -> None:
    with pytest.raises(ValueError, match="not a count: D11: "):
        toy_mesh.with_counts({"D10": 1, "D11": count})  # type: ignore[dict-item]


def test_orphans_may_be_tolerated() -> None:
    mesh = MeshHierarchy.from_descriptors([*TOY, ("D90", "Orphan", ["C1.9.5"])], tolerate_orphans=True)
    # The missing parent C1.9 is nobody's; what is there above it is found.
    assert ancestors(mesh, "D90") == ["D90", "D10", "C"]
    assert mesh.num_tree_numbers == 12


def test_names_resolve_exactly_then_without_case_then_by_entry_terms() -> None:
    from kailin_ray.mesh.readers import Descriptor

    mesh = MeshHierarchy.from_descriptors(
        [
            Descriptor("D1", "Stroke", ("C1",), ("Apoplexy", "stroke volume")),
            Descriptor("D2", "Stroke Volume", ("C2",), ("Apoplexies",)),
            Descriptor("D3", "STROKE", ("C3",)),
        ]
    )
    names = ["Stroke", "STROKE", "stroke", "stroke volume", "Apoplexy", "APOPLEXIES", "unheard of", ""]
    #        exact, exact, the first without case, a name before an entry term, ...
    assert mesh.find_names(names).tolist() == [0, 2, 0, 1, 0, 1, -1, -1]
    assert mesh.find_names([]).tolist() == []


def test_an_alias_stands_for_its_descriptor(toy_mesh: MeshHierarchy) -> None:
    also = toy_mesh.with_aliases({"X2": 1, "X1": 2, "D10": 5})
    assert also.find(["X1", "X2", "D10", "D11", "X3"]).tolist() == [2, 1, 0, 1, -1]  # its own UIs come first
    assert [also.numbers().get(ui, -1) for ui in ["X1", "X2", "D10", "D11", "X3"]] == [2, 1, 0, 1, -1]
    assert "D99" not in also.numbers()  # it has no place
    assert also.similarity("X2", "D12") == also.similarity("D11", "D12")
    counted = also.with_counts({"X2": 3, "D11": 4})
    assert counted.counts[1] == 7
    assert not also.equals(toy_mesh)


def test_the_whole_of_mesh() -> None:
    mesh = MeshHierarchy.load(MESH)
    assert (len(mesh.uis), mesh.num_tree_numbers, len(mesh.letters)) == (30_764, 64_457, 16)
    assert mesh.nbytes < 100_000_000
    assert mesh.similarity("D003924", "D003922") > mesh.similarity("D003924", "D008175")
    # Male and Female have no tree number.
    assert len(mesh.select_placed(["D008297", "D005260"])) == 0
    # Read-only, also after it went through the object store's serialization.
    copy = pickle.loads(pickle.dumps(mesh, protocol=5))
    assert copy.equals(mesh)
    with pytest.raises(ValueError, match="read-only"):
        mesh.ancestor_nodes[0] = 1
