"""Figures of how documents and headings spread over MeSH: what manifests hold and plots draw."""

from typing_extensions import TypedDict  # of typing's own, pydantic takes none before Python 3.12


class BranchHeadings(TypedDict):
    """Headings in one branch, of the corpus and of what was and was not accepted."""

    branch: str
    name: str | None
    corpus: int
    accepted: int
    rejected: int


class CoverageLevel(TypedDict):
    """One level of MeSH: its branches, and how well those that were accepted cover the corpus'."""

    branches: list[BranchHeadings]
    num_in_corpus: int
    num_reached: int
    divergence: float | None


class Coverage(TypedDict):
    """Both levels."""

    letters: CoverageLevel
    categories: CoverageLevel


class Documents(TypedDict):
    """Numbers of documents, before (the corpus) and after (the sample)."""

    before: int
    after: int


class Shares(TypedDict):
    """Shares of documents, before and after."""

    before: float
    after: float


class StratumFigures(TypedDict):
    """One stratum; ``name`` is its branch's."""

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
    """Of the spread of documents over branches, in bits; ``even``: were it even."""

    before: float | None
    after: float | None
    even: float | None


class Divergence(TypedDict):
    """Jensen-Shannon divergences in bits, 0 to 1: the sample's from the corpus', and each one's from an even spread."""

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

    budget: int
    seed: int
    by: str | None
    period: str | None
    major: bool
    power: float
    max_share: float
    min_per_stratum: int


class SampleFigures(TypedDict):
    """What a sample is like, compared with the corpus that it was drawn from."""

    design: DesignFigures
    num_documents: Documents
    strata: StrataFigures
    letters: LevelFigures
    categories: LevelFigures


class Heading(TypedDict):
    """Of one descriptor its name and number of documents."""

    name: str
    documents: int


class Headings(TypedDict):
    """How many of a corpus' descriptors the hierarchy knows."""

    known: int
    known_by_name: int
    unknown: int
    uses_of_unknown: int
    """Documents that have them, each heading counted."""
    most_used_unknown: list[Heading]


class MeshNote(TypedDict):
    """What a manifest says of a hierarchy."""

    num_descriptors: int
    num_tree_numbers: int
    headings: Headings
