from pathlib import Path

import matplotlib.image
import pytest

from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, draw, sketch
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.mesh.plots import draw_sampling
from tests.corpus.selection.test_sampling import COUNTS, random_documents


@pytest.mark.parametrize("number", [0, 1, 100])
@pytest.mark.parametrize("names", [("uniform",), ("uniform", "stratified")])
def test_samples_of_any_size_are_drawn(
    tmp_path: Path, toy_mesh: MeshHierarchy, number: int, names: tuple[str, ...]
) -> None:
    mesh, table = toy_mesh.with_counts(COUNTS), random_documents(100)[:number]
    reports = {}
    for name in names:
        design = Design(size=10, seed=1, stratify_by="categories" if name == "stratified" else None)
        whole = sketch(table, mesh, design)
        reports[name] = balance(whole, draw(whole, design), mesh, design)
    draw_sampling(reports, tmp_path / "picture.png")
    height, width, _ = matplotlib.image.imread(tmp_path / "picture.png").shape
    assert width > height > 300
