"""Figures of how documents and headings spread over MeSH, as stored in manifests and drawn in plots."""

from typing_extensions import TypedDict  # pydantic does not accept typing's own before Python 3.12


class BranchHeadings(TypedDict):
    """Headings in one branch, of the corpus and of accepted and rejected documents."""

    branch: str
    name: str | None
    corpus: int
    accepted: int
    rejected: int


class CoverageLevel(TypedDict):
    """One level of MeSH: its branches, and how well accepted documents cover those of the corpus."""

    branches: list[BranchHeadings]
    num_in_corpus: int
    num_reached: int
    divergence: float | None


class Coverage(TypedDict):
    """Both levels."""

    letters: CoverageLevel
    categories: CoverageLevel


class Documents(TypedDict):
    """Numbers of documents before (the corpus) and after (the sample)."""

    before: int
    after: int


class Shares(TypedDict):
    """Shares of documents before and after."""

    before: float
    after: float


class StratumFigures(TypedDict):
    """One stratum; ``name`` is the name of its branch."""

    stratum: str
    name: str | None
    documents_before: int
    documents_after: int
    share_before: float
    share_after: float


class BranchFigures(TypedDict):
    """One branch, by documents and by headings."""

    branch: str
    name: str | None
    documents_before: int
    documents_after: int
    share_before: float
    share_after: float
    headings_before: int
    headings_after: int


class StrataFigures(TypedDict):
    """All strata, and how many of them the sample reaches."""

    num_in_corpus: int
    num_reached: int
    largest_share: Shares
    strata: list[StratumFigures]


class Entropy(TypedDict):
    """Entropy of the spread of documents over branches, in bits; ``even``: of an even spread."""

    before: float | None
    after: float | None
    even: float | None


class Divergence(TypedDict):
    """Jensen-Shannon divergences in bits, 0 to 1: of sample and corpus, and of each of them and an even spread."""

    from_corpus: float | None
    from_even_before: float | None
    from_even_after: float | None


class LevelFigures(TypedDict):
    """One level of MeSH before and after."""

    num_in_corpus: int
    num_reached: int
    largest_share: Shares
    entropy: Entropy
    divergence: Divergence
    branches: list[BranchFigures]


class DesignFigures(TypedDict):
    """How a sample was drawn: the fields of ``sampling.Design``."""

    size: int
    seed: int
    stratify_by: str | None
    period: str | None
    major_only: bool
    alpha: float
    max_share: float
    min_per_stratum: int


class SampleFigures(TypedDict):
    """A sample, compared with the corpus that it was drawn from."""

    design: DesignFigures
    num_documents: Documents
    strata: StrataFigures
    letters: LevelFigures
    categories: LevelFigures


class Heading(TypedDict):
    """Name and number of documents of one descriptor."""

    name: str
    documents: int


class Headings(TypedDict):
    """How many descriptors of a corpus the hierarchy knows."""

    known: int
    known_by_name: int
    unknown: int
    uses_of_unknown: int
    """Documents that have unknown descriptors, counted once for each such heading."""
    most_used_unknown: list[Heading]


class MeshNote(TypedDict):
    """The entry for a hierarchy in a manifest."""

    num_descriptors: int
    num_tree_numbers: int
    headings: Headings
