from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from kailin_ray.corpus.selection import sampling
from kailin_ray.corpus.selection.balance import balance
from kailin_ray.corpus.selection.sampling import Design, Sketch, draw, frequency, keys, merge, sketch
from kailin_ray.mesh import MeshHierarchy
from kailin_ray.schema import MESH_HEADING

SCHEMA = pa.schema([("pmid", pa.int64()), ("year", pa.int16()), ("mesh", pa.list_(MESH_HEADING))])
# By headings in the corpus: C1 100, D1 10, C2 3; letters: C 103, D 10.
COUNTS = {"D11": 60, "D12": 40, "D51": 9, "D21": 1, "D20": 2}


def documents(*rows: tuple[int, int | None, str]) -> pa.Table:
    """PMID, year, and UIs, a star after those that are major."""

    def heading(ui: str) -> dict[str, Any]:
        return {"ui": ui.rstrip("*"), "name": "", "major": ui.endswith("*"), "qualifiers": []}

    return pa.Table.from_pylist(
        [{"pmid": pmid, "year": year, "mesh": [heading(ui) for ui in uis.split()]} for pmid, year, uis in rows], SCHEMA
    )


def random_documents(number: int, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    uis = ["D11", "D11", "D11", "D12", "D51", "D21", "D20", "D99"]
    rows = zip(
        rng.choice(10 * number, number, replace=False).tolist(),
        rng.integers(1975, 1984, number).tolist(),
        rng.choice(uis, (number, 2)).tolist(),
        strict=True,
    )
    return documents(*((pmid, year, " ".join(set(pair))) for pmid, year, pair in rows))


@pytest.fixture(scope="module")
def mesh(toy_mesh: MeshHierarchy) -> MeshHierarchy:
    return toy_mesh.with_counts(COUNTS)


def same(one: Sketch, two: Sketch) -> bool:
    arrays = ("strata", "sizes", "documents", "headings")
    return (
        one.num_documents == two.num_documents
        and all(np.array_equal(getattr(one, name), getattr(two, name)) for name in arrays)
        and one.candidates.equals(two.candidates)
    )


def strata(table: pa.Table, mesh: MeshHierarchy, **design: Any) -> dict[str, int]:
    """The documents in each stratum, by its label."""
    made = Design(size=0, seed=1, **design)
    whole = sketch(table, mesh, made)
    rows = balance(whole, draw(whole, made), mesh, made)["strata"]["strata"]
    return {row["stratum"]: row["documents_before"] for row in rows}


def test_keys_are_splitmix64() -> None:
    def step(state: int) -> int:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    assert step(0) == 0xE220A8397B1DCDAF  # the published generator's first number from 0
    # A sample can be drawn again only as long as these stay.
    assert keys(np.array([1, 31_452_104]), 7).tolist() == [step(step(7) + pmid) for pmid in (1, 31_452_104)]


@given(st.sets(st.integers(0, 2**63 - 1), max_size=50), st.integers(-(2**70), 2**70))
def test_keys_of_different_pmids_differ(pmids: set[int], seed: int) -> None:
    assert len(set(keys(np.array(sorted(pmids), dtype=np.int64), seed).tolist())) == len(pmids)


def test_a_document_is_in_the_stratum_of_its_rarest_branch(mesh: MeshHierarchy) -> None:
    table = documents(
        (1, 1978, "D11"),
        (2, 1978, "D11 D51"),
        (3, 1979, "D51 D20"),
        (4, None, "D21"),  # C2 and D1
        (5, 1981, "D99 unknown"),
        (6, None, ""),
    )
    assert strata(table, mesh) == {"all": 6}
    assert strata(table, mesh, stratify_by="categories") == {"C1": 1, "C2": 2, "D1": 1, "none": 2}
    assert strata(table, mesh, stratify_by="letters") == {"C": 1, "D": 3, "none": 2}
    assert strata(table, mesh, period="year") == {"no year": 2, "1978": 2, "1979": 1, "1981": 1}
    assert strata(table, mesh, period="decade") == {"no year": 2, "1970s": 3, "1980s": 1}
    assert strata(table, mesh, stratify_by="letters", period="decade") == {
        "C 1970s": 1, "D no year": 1, "D 1970s": 2, "none no year": 1, "none 1980s": 1,
    }  # fmt: skip


def test_only_major_headings_count_if_so_wanted(mesh: MeshHierarchy) -> None:
    table = documents((1, 1978, "D11* D20"), (2, 1978, "D11 D20*"), (3, 1978, "D11"))
    assert strata(table, mesh, stratify_by="categories", major_only=True) == {"C1": 1, "C2": 1, "none": 1}
    found = sketch(table, mesh, Design(size=1, seed=1, major_only=True))
    assert dict(zip("C1 C2 D1 C D".split(), found.documents.tolist(), strict=True)) == {
        "C1": 1, "C2": 1, "D1": 0, "C": 2, "D": 0,
    }  # fmt: skip


def test_strata_by_branch_need_the_corpus_counts(toy_mesh: MeshHierarchy) -> None:
    with pytest.raises(ValueError, match="counts"):
        sketch(documents((1, 1978, "D11")), toy_mesh, Design(size=1, seed=1, stratify_by="letters"))


def test_the_rate_follows_the_frequency_of_the_branch(mesh: MeshHierarchy) -> None:
    # 50 documents in C1 alone, 50 in C1 and C2: two strata of 50, of branches with 100 and 50 documents.
    table = documents(*((pmid, 1978, "D11" if pmid % 2 else "D11 D20") for pmid in range(100)))
    design = Design(size=30, seed=1, stratify_by="categories", alpha=0.0)
    whole = sketch(table, mesh, design)
    assert frequency(whole, design).tolist() == [100, 50]
    assert Counter(p % 2 for p in draw(whole, design)["pmid"].to_pylist()) == {1: 10, 0: 20}


def test_frequencies_of_branch_and_period_are_multiplied(mesh: MeshHierarchy) -> None:
    table = documents((1, 1978, "D11"), (2, 1979, "D11"), (3, 1979, "D11 D20"), (4, 1979, ""))
    design = Design(size=2, seed=1, stratify_by="categories", period="year")
    # C1 1978, C1 1979, C2 1979, none 1979; 3 documents are in C1, 1 in C2, 1 nowhere, 1 of 1978, 3 of 1979.
    assert frequency(sketch(table, mesh, design), design).tolist() == [3 * 1, 3 * 3, 1 * 3, 1 * 3]


@pytest.mark.parametrize("budget", [0, 1, 40, 399, 400, 1000])
@pytest.mark.parametrize(
    "design", [{}, {"stratify_by": "categories"}, {"stratify_by": "letters", "period": "year", "max_share": 0.05}]
)
def test_the_budget_is_met_exactly(mesh: MeshHierarchy, budget: int, design: dict[str, Any]) -> None:
    table = random_documents(400)
    made = Design(size=budget, seed=3, **design)
    chosen = draw(sketch(table, mesh, made), made)["pmid"].to_pylist()
    assert len(chosen) == min(budget, 400)
    assert chosen == sorted(set(chosen)) and set(chosen) <= set(table["pmid"].to_pylist())


@settings(max_examples=40)
@given(
    st.permutations(range(12)),
    st.lists(st.integers(0, 300), max_size=11),
    st.integers(0, 320),
    st.sampled_from([{}, {"stratify_by": "categories"}, {"stratify_by": "letters", "period": "decade"}]),
    st.sampled_from([0.05, 0.2, 1.0]),
    st.sampled_from([1, 50, 1 << 18]),
)
def test_parts_and_their_order_do_not_matter(
    toy_mesh: MeshHierarchy, order: list[int], cuts: list[int], budget: int, by: Any, share: float, rows: int
) -> None:
    mesh, table = toy_mesh.with_counts(COUNTS), random_documents(300)
    design = Design(size=budget, seed=5, max_share=share, **by)
    ends = sorted([0, *cuts, 300])
    parts = [table.slice(a, b - a) for a, b in pairwise(ends)]
    shuffled = [parts[i] for i in order if i < len(parts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "ROWS_AT_ONCE", rows)
        sketches = [sketch(part, mesh, design) for part in shuffled]
        whole = merge(sketches, design)
        half = len(sketches) // 2
        grouped = merge([merge(group, design) for group in (sketches[:half], sketches[half:]) if group], design)
    assert same(whole, sketch(table, mesh, design))
    assert same(whole, grouped)


def test_a_sketch_holds_no_more_than_can_be_drawn(mesh: MeshHierarchy) -> None:
    table = random_documents(2000)
    whole = sketch(table, mesh, Design(size=100, seed=1, stratify_by="categories", max_share=0.3))
    # Of three strata 30, of which there are more than enough, and all 28 without a branch.
    assert np.minimum(whole.sizes, 30).tolist() == [30, 30, 30, 28]
    assert len(whole.candidates) == 30 + 30 + 30 + 28
    assert len(sketch(table, mesh, Design(size=100, seed=1)).candidates) == 100


def test_nothing_to_merge_is_refused() -> None:
    with pytest.raises(ValueError, match="no sketches"):
        merge([], Design(size=1, seed=1))


def test_documents_without_a_single_row_add_nothing(mesh: MeshHierarchy) -> None:
    design = Design(size=5, seed=1, stratify_by="categories", period="year")
    empty, table = sketch(SCHEMA.empty_table(), mesh, design), random_documents(20)
    assert len(draw(empty, design)) == 0
    assert same(merge([empty, sketch(table, mesh, design)], design), sketch(table, mesh, design))


@pytest.mark.parametrize("by", [None, "categories"])
def test_a_larger_sample_holds_the_smaller(mesh: MeshHierarchy, by: Any) -> None:
    table = random_documents(500)
    drawn = []
    for budget in (20, 50, 51, 200):
        design = Design(size=budget, seed=9, stratify_by=by, min_per_stratum=8)
        drawn.append(set(draw(sketch(table, mesh, design), design)["pmid"].to_pylist()))
    assert drawn[0] < drawn[1] < drawn[2] < drawn[3]


def test_the_seed_changes_the_sample_and_nothing_else_does(mesh: MeshHierarchy) -> None:
    table = random_documents(1000)
    design = Design(size=100, seed=1)
    one, again, other = (
        set(draw(sketch(rows, mesh, made), made)["pmid"].to_pylist())
        for rows, made in ((table, design), (table.sort_by("pmid"), design), (table, replace(design, seed=2)))
    )
    assert one == again
    assert len(one & other) < 30  # 10 are expected


def test_a_uniform_sample_is_uniform() -> None:
    # PMIDs follow one another: the hash must not.
    drawn = [np.argsort(keys(np.arange(10_000, 11_000), seed))[:100] for seed in range(200)]
    by_place = np.bincount(np.concatenate(drawn) // 10, minlength=100)
    assert chisquare(by_place).pvalue > 0.001
    by_residue = np.bincount(np.concatenate(drawn) % 8, minlength=8)
    assert chisquare(by_residue).pvalue > 0.001
    # Samples of different seeds are independent: two have 10 of 1,000 in common, give or take.
    common = [len(np.intersect1d(a, b)) for a, b in pairwise(drawn)]
    assert np.mean(common) == pytest.approx(10, abs=1)
