import numpy as np
import pyarrow as pa
import pytest

from kailin_ray.errors import ConfigError
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.headings import documents_with, read_headings, subtree
from kailin_ray.schema import MESH_HEADING


def column(*documents: list[tuple[str, bool]] | None) -> pa.ListArray:
    rows = [
        None if one is None else [{"ui": ui, "name": "", "major": major, "qualifiers": []} for ui, major in one]
        for one in documents
    ]
    return pa.array(rows, pa.list_(MESH_HEADING))


def under(mesh: MeshHierarchy, *wanted: str) -> set[str]:
    return {ui.decode() for ui in mesh.uis[subtree(mesh, wanted)]}


@pytest.mark.parametrize("wanted", ["D10", "Neoplasms", "neoplasms", "C1"])
def test_a_subtree_by_ui_name_or_tree_number(toy_mesh: MeshHierarchy, wanted: str) -> None:
    assert under(toy_mesh, wanted) == {"D10", "D11", "D12"}


def test_subtrees_by_hand(toy_mesh: MeshHierarchy) -> None:
    assert under(toy_mesh, "C") == {"D10", "D11", "D12", "D20", "D21", "D22", "D23"}
    assert under(toy_mesh, "Hormones") == {"D50", "D51", "D52", "D21"}  # Diabetes has a second place there
    assert under(toy_mesh, "C2.2", "Insulin") == {"D22", "D23", "D51"}
    assert under(toy_mesh, "Male") == {"D99"}  # without a place it is alone
    assert under(toy_mesh) == set()


def test_of_a_tree_number_only_that_place_counts(toy_mesh: MeshHierarchy) -> None:
    mesh = MeshHierarchy.from_descriptors([("D1", "A", ["C1", "E1"]), ("D2", "B", ["C1.1"]), ("D3", "C", ["E1.1"])])
    assert under(mesh, "E1") == {"D1", "D3"}
    assert under(mesh, "A") == {"D1", "D2", "D3"}


@pytest.mark.parametrize("wanted", ["Neoplasm", "D999", "C9", "", "Ünknown"])
def test_an_unknown_name_is_refused_by_name(toy_mesh: MeshHierarchy, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"'{wanted}' is not a descriptor") as raised:
        subtree(toy_mesh, ["Obesity", wanted])
    assert ("did you mean Neoplasms" in str(raised.value)) == (wanted == "Neoplasm")


def test_a_name_with_commas_may_be_divided_by_a_list(toy_mesh: MeshHierarchy) -> None:
    whole, other = subtree(toy_mesh, ["Obesity, Morbid"]), subtree(toy_mesh, ["Neoplasms"])
    assert whole.sum() == 1
    assert subtree(toy_mesh, ["Obesity", "Morbid"]).tolist() == whole.tolist()
    assert subtree(toy_mesh, ["Neoplasms", "Obesity", "Morbid"]).tolist() == (whole | other).tolist()
    assert subtree(toy_mesh, ["Obesity", "Morbid", "Neoplasms"]).tolist() == (whole | other).tolist()
    assert subtree(toy_mesh, ["Neoplasms", "Obesity"]).sum() == other.sum() + 2
    with pytest.raises(ConfigError, match="'Mobid' is not"):
        subtree(toy_mesh, ["Obesity", "Mobid"])


def test_documents_under_a_descriptor(toy_mesh: MeshHierarchy) -> None:
    mesh = toy_mesh.with_aliases({"X1": int(toy_mesh.find(["D12"])[0])})
    headings = column([("D11", True)], None, [("D20", True), ("D11", False)], [], [("X1", True)], [("unknown", True)])
    chosen = subtree(mesh, ["Neoplasms"])
    assert documents_with(headings, mesh, chosen).tolist() == [True, False, True, False, True, False]
    assert documents_with(headings, mesh, chosen, major=True).tolist() == [True, False, False, False, True, False]
    # A slice, and a column in chunks, are what they show.
    assert documents_with(headings.slice(2), mesh, chosen).tolist() == [True, False, True, False]
    assert documents_with(pa.chunked_array([headings, headings.slice(4)]), mesh, chosen).sum() == 4


def test_headings_as_numbers(toy_mesh: MeshHierarchy) -> None:
    found = read_headings(column([("D99", False), ("none", True)], [], [("D10", True)]), toy_mesh)
    assert found.rows.tolist() == [0, 2]
    assert toy_mesh.uis[found.descriptors].tolist() == [b"D99", b"D10"]
    assert len(read_headings(column(), toy_mesh).rows) == 0
    missing = pa.array([[{"ui": "D10", "major": None}, None]], pa.list_(MESH_HEADING))
    assert np.array_equal(read_headings(missing, toy_mesh, major=True).rows, [])
