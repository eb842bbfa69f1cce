"""Load the MeSH hierarchy with the information content of a corpus, and match headings by UI or by name."""

from pathlib import Path

from kailin_ray.errors import ConfigError
from kailin_ray.io.files import read_json
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.figures import Heading, MeshNote


def load_mesh(mesh: Path, tolerate_orphans: bool, documents: Path, *others: Path) -> tuple[MeshHierarchy, MeshNote]:
    """Return the hierarchy with the information content of the corpus ``documents``, and a note for a manifest.

    A heading of the documents, or of ``others`` (folders with a ``descriptors.json``), whose UI the hierarchy does not
    know is looked up by its name; headings that remain unknown are counted.

    Raises ``ConfigError`` if the file holds no hierarchy.
    """
    try:
        hierarchy = MeshHierarchy.load(mesh, tolerate_orphans)
    except ValueError as error:
        raise ConfigError(f"mesh: {error}") from error
    corpus = _headings(documents)
    headings = {ui: heading for folder in others for ui, heading in _headings(folder).items()} | corpus
    missing = [ui for ui, number in zip(headings, hierarchy.find(list(headings)), strict=True) if number < 0]
    numbers = hierarchy.find_names([headings[ui]["name"] for ui in missing]).tolist() if missing else []
    aliases = {ui: number for ui, number in zip(missing, numbers, strict=True) if number >= 0}
    unknown = sorted((headings[ui] for ui in missing if ui not in aliases), key=lambda heading: -heading["documents"])
    note: MeshNote = {
        "num_descriptors": len(hierarchy.uis),
        "num_tree_numbers": hierarchy.num_tree_numbers,
        "headings": {
            "known": len(headings) - len(missing),
            "known_by_name": len(aliases),
            "unknown": len(unknown),
            "uses_of_unknown": sum(heading["documents"] for heading in unknown),
            "most_used_unknown": unknown[:5],
        },
    }
    counts = {ui: heading["documents"] for ui, heading in corpus.items()}
    return hierarchy.with_aliases(aliases).with_counts(counts), note


def _headings(folder: Path) -> dict[str, Heading]:
    """Return the name and the number of documents of each descriptor of a corpus, by UI."""
    path = folder / "descriptors.json"
    if not path.exists():
        raise ConfigError(f"{folder} was made by an older version; remove it and make it again")
    headings: dict[str, Heading] = read_json(path)
    if not all(isinstance(heading, dict) and heading for heading in headings.values()):
        raise ConfigError(f"{folder} was made by an older version; remove it and make it again")
    return headings
