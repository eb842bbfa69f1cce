"""The corpus' headings meet the hierarchy: by UI, by name, or not at all."""

from pathlib import Path

import pytest

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import write_json
from kailin_ray.mesh.load import load_mesh
from tests.conftest import TOY

pytestmark = pytest.mark.usefixtures("own_cache")
HEADINGS = {
    "D11": {"name": "Lung Neoplasms", "documents": 3},
    "D12": {"name": "skin neoplasms", "documents": 4},  # the hierarchy spells it otherwise
    "D888888": {"name": "Obesity", "documents": 2},  # and knows this one under another UI
    "D999999": {"name": "Long Forgotten", "documents": 5},
    "Insulin": {"name": "Insulin", "documents": 1},  # a heading without a UI
}
# The index may be of another corpus.
PASSAGES = {"D777777": {"name": "Estrogen", "documents": 9}, "D666666": {"name": "Unheard Of", "documents": 7}}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    write_json(tmp_path / "documents" / "descriptors.json", HEADINGS)
    write_json(tmp_path / "index" / "descriptors.json", PASSAGES)
    return tmp_path / "documents"


def test_a_heading_is_found_by_its_ui_or_else_by_its_name(tmp_path: Path, documents: Path) -> None:
    path = tmp_path / "mesh.tsv"
    path.write_text("".join(f"{ui}\t{name}\t\t{'|'.join(trees)}\n" for ui, name, trees in TOY))
    mesh, note = load_mesh(path, False, documents, documents.parent / "index")
    assert note["headings"] == {
        "known": 2,
        "known_by_name": 3,
        "unknown": 2,
        "uses_of_unknown": 12,
        "most_used_unknown": [{"name": "Unheard Of", "documents": 7}, {"name": "Long Forgotten", "documents": 5}],
    }
    counted = {ui.decode(): count for ui, count in zip(mesh.uis.tolist(), mesh.counts.tolist(), strict=True) if count}
    assert counted == {"D11": 3, "D12": 4, "D22": 2, "D51": 1}
    assert mesh.set_similarity(["D777777"], ["D52"], measure="lin") == 1.0  # a passage's heading
    assert mesh.set_similarity(["D888888"], ["D23"]) == mesh.set_similarity(["D22"], ["D23"])


def test_a_tree_list_knows_all_headings_by_their_names(tmp_path: Path, documents: Path) -> None:
    path = tmp_path / "mtrees.bin"
    path.write_text("".join(f"{name};{tree}\n" for _, name, trees in TOY for tree in trees))
    mesh, note = load_mesh(path, False, documents, documents.parent / "index")
    # "Insulin" is a UI of this hierarchy.
    assert (note["headings"]["known"], note["headings"]["known_by_name"]) == (1, 4)
    assert mesh.similarity("D11", "D12") == mesh.similarity("Lung Neoplasms", "Skin Neoplasms") > 0


def test_what_is_wrong_is_named(tmp_path: Path, documents: Path) -> None:
    path = tmp_path / "mesh.tsv"
    path.write_text("D1\tOne\t\tC1.1\n")
    with pytest.raises(ConfigError, match=r"mesh: .*mesh\.tsv: orphan tree number, its parent missing: C1\.1"):
        load_mesh(path, False, documents, documents.parent / "index")
    mesh, _ = load_mesh(path, True, documents)
    assert len(mesh.uis) == 1
    write_json(documents / "descriptors.json", {"D1": 7})
    with pytest.raises(ConfigError, match="older version; remove it and make it again"):
        load_mesh(path, True, documents)
