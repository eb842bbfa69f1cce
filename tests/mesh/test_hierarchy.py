import gzip
import pickle

import numpy as np
import pytest

from kailin_ray.mesh import MeshHierarchy
from tests.conftest import MESH, TOY


def ancestors(mesh: MeshHierarchy, ui: str) -> set[str]:
    """Names of a descriptor's ancestors; letters by their place after the descriptors."""
    d = int(mesh.find([ui])[0])
    nodes = mesh.ancestor_nodes[mesh.ancestor_offsets[d] : mesh.ancestor_offsets[d + 1]]
    letters = {len(mesh.uis): "C", len(mesh.uis) + 1: "D"}
    return {letters.get(int(n)) or mesh.uis[n].decode() for n in nodes}


def test_ancestors_include_the_descriptor_itself_and_the_category_letter(toy_mesh: MeshHierarchy) -> None:
    assert ancestors(toy_mesh, "D11") == {"D11", "D10", "C"}
    assert ancestors(toy_mesh, "D10") == {"D10", "C"}
    # Diabetes stands in two places.
    assert ancestors(toy_mesh, "D21") == {"D21", "D20", "C", "D50", "D"}
    assert ancestors(toy_mesh, "D99") == set()


def test_frequency_and_information_content_by_hand(toy_mesh: MeshHierarchy) -> None:
    counted = toy_mesh.with_counts({"D11": 3, "D21": 1, "D99": 100, "unknown": 5})
    # count + 1: D10 1, D11 4, D12 1, D20 1, D21 2, D22 1, D50 1, D51 1, D52 1 (D99 has no tree number): N = 13
    assert counted.total == 13
    frequency = dict(zip([u.decode() for u in counted.uis], counted.frequency, strict=False))
    # D10: D10 + D11 + D12; D20: D20 + D21 + D22; D50: D50 + D51 + D52 + D21
    assert frequency == {
        "D10": 6, "D11": 4, "D12": 1, "D20": 4, "D21": 2, "D22": 1, "D50": 5, "D51": 1, "D52": 1, "D99": 0,
    }  # fmt: skip
    assert counted.frequency[10:].tolist() == [10, 5]  # letters C and D
    assert counted.information_content[0] == pytest.approx(-np.log(6 / 13))
    assert toy_mesh.counts.sum() == 0  # with_counts made a new object


def test_information_content_never_rises_towards_the_root(toy_mesh: MeshHierarchy) -> None:
    ic = toy_mesh.with_counts({"D12": 7}).information_content
    for d in range(len(toy_mesh.uis)):
        nodes = toy_mesh.ancestor_nodes[toy_mesh.ancestor_offsets[d] : toy_mesh.ancestor_offsets[d + 1]]
        assert all(ic[n] <= ic[d] for n in nodes)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "no descriptors"),
        ([*TOY, ("D10", "Again", ["C9"])], "UI given twice: D10"),
        ([*TOY, ("D90", "Thief", ["C1.1"])], "tree number held twice: C1.1"),
        ([*TOY, ("D90", "Orphan", ["C7.1"])], "orphan tree number, its parent missing: C7.1"),
    ],
)
def test_a_broken_hierarchy_is_refused_by_name(rows: list[tuple[str, str, list[str]]], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        MeshHierarchy.from_descriptors(rows)


def test_both_layouts_of_the_table_give_the_same_hierarchy(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "bare.tsv").write_text("".join(f"{u}\t{n}\tentry|terms\t{'|'.join(t)}\n" for u, n, t in TOY))
    header = "descriptor_ui\tname\ttree_numbers\tentry_terms\n"
    with gzip.open(folder / "named.tsv.gz", "wt") as sink:
        sink.write(header + "".join(f"{u}\t{n}\t{'|'.join(t)}\tx\n" for u, n, t in TOY))
    one, two = (MeshHierarchy.load(folder / name) for name in ("bare.tsv", "named.tsv.gz"))
    assert (one.uis == two.uis).all()
    assert (one.ancestor_nodes == two.ancestor_nodes).all()
    (folder / "wrong.tsv").write_text("just one column\n")
    with pytest.raises(ValueError, match=r"wrong\.tsv, line 1"):
        MeshHierarchy.load(folder / "wrong.tsv")


def test_the_whole_of_mesh() -> None:
    mesh = MeshHierarchy.load(MESH)
    assert len(mesh.uis) == 30_764
    assert mesh.num_nodes == 30_764 + 16
    assert mesh.similarity("D003924", "D003922") > mesh.similarity("D003924", "D008175")
    # Male and Female have no tree number.
    assert len(mesh.placed(["D008297", "D005260"])) == 0
    # Read-only, also after it went through the object store's serialization.
    copy = pickle.loads(pickle.dumps(mesh, protocol=5))
    assert copy.similarity("D003924", "D003922") == mesh.similarity("D003924", "D003922")
    with pytest.raises(ValueError, match="read-only"):
        mesh.ancestor_nodes[0] = 1
