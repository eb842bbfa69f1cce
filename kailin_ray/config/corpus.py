"""Configuration of the commands that make documents."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from kailin_ray.config.cluster import Cluster
from kailin_ray.config.fields import STRICT, Fraction, NotNegative, Positive, WebAddress
from kailin_ray.io.storage import LocalPath


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DownloadConfig:
    """``kailin-ray download``."""

    to: LocalPath
    what: Annotated[tuple[Literal["baseline", "updatefiles"], ...], Field(min_length=1)]
    """NLM's folders of PubMed files."""
    names: tuple[str, ...] | str
    """Globs of the names that are wanted."""
    limit: Positive | None
    """The first so many of them only."""
    connections: Annotated[int, Field(ge=1, le=8)]
    """Files that are fetched at once."""
    base_url: WebAddress
    """Of the folders: NLM's, or a mirror's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubmedXml:
    """Documents from PubMed's own files."""

    kind: Literal["pubmed_xml"]
    path: tuple[str, ...] | str
    """A file, a directory, a glob, or a list of these."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubmedQuery:
    """Documents that PubMed finds for a query, from NCBI's E-utilities."""

    kind: Literal["pubmed_query"]
    query: Annotated[str, Field(min_length=1)]
    """In PubMed's own language: ``metformin AND 2020[dp]``."""
    max_results: Annotated[int, Field(ge=1, le=9_999)] | None
    """The first so many; null for all. NCBI gives the first 9,999 of a query's results only."""
    email: str | None
    """Whom NCBI writes to before it blocks an address."""
    base_url: WebAddress


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pmids:
    """Documents by their PMIDs, from NCBI's E-utilities."""

    kind: Literal["pmids"]
    path: LocalPath
    """A text file, one PMID a line; or a CSV file."""
    column: str | None
    """Of the CSV file; null for a text file."""
    email: str | None
    base_url: WebAddress


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Columns:
    """Of a table: which column holds a field, null for none; see ``corpus/readers/tables.py`` for what cells may be."""

    pmid: str
    title: str | None
    abstract: str | None
    labels: str | None
    """Of the abstract's sections, where it is a list of texts."""
    year: str | None
    journal: str | None
    language: str | None
    mesh: str | None
    keywords: str | None
    publication_types: str | None
    doi: str | None
    pmcid: str | None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Table:
    """Documents from the rows of files: JSON, JSON lines, CSV, Parquet."""

    kind: Literal["table"]
    path: tuple[str, ...] | str
    columns: Columns


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HuggingFace:
    """Documents from the rows of a dataset of the Hugging Face hub, or of a local dataset folder."""

    kind: Literal["huggingface"]
    path: str
    """``owner/name``, or a folder."""
    name: str | None
    """Of the dataset's configuration."""
    split: str
    revision: str | None
    """Of the hub, best a commit."""
    columns: Columns


Source = Annotated[PubmedXml | PubmedQuery | Pmids | Table | HuggingFace, Field(discriminator="kind")]
"""Where documents come from."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IngestConfig:
    """``kailin-ray ingest``."""

    source: Source
    out: LocalPath
    tolerate: bool
    """Exit 0 although a file was damaged; its loss is counted and shown either way."""
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Filters:
    """What a document must be; see ``corpus/selection/filters.py``."""

    require_mesh: bool
    min_words: NotNegative
    """Of the abstract; without one no document stays."""
    languages: tuple[str, ...]
    """MEDLINE's codes, such as eng, of which the article must have one; empty for any."""
    drop_retracted: bool
    exclude_types: tuple[str, ...]
    """Publication types that do not stay."""
    year_from: int | None
    year_to: int | None
    """Both counted in; an unknown year is outside."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Duplicates:
    """Abstracts that are there twice; the lowest PMID stays."""

    jaccard: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """How alike two abstracts are that count as one, by their sets of five words in a row; 1 for those with the same
    words only; null to keep all."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sample:
    """Which documents of those that stay are taken; see ``corpus/selection/sampling.py``."""

    num: Positive | None
    """How many; null for all."""
    seed: NotNegative
    by: Literal["letters", "categories"] | None
    """Strata by MeSH's first level (C, Diseases) or second (C04, Neoplasms); null for none."""
    period: Literal["year", "decade"] | None
    """Strata by time."""
    major: bool
    """Only major headings count, what a document is about."""
    power: Fraction
    """1: as the corpus is; 0: equally from all strata; between them rare strata are lifted and common ones lowered."""
    max_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """Of the sample, that one stratum may have."""
    min_per_stratum: NotNegative


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelectConfig:
    """``kailin-ray select``."""

    corpus: LocalPath
    out: LocalPath
    mesh: LocalPath | None
    tolerate_orphans: bool
    filters: Filters
    benchmarks: tuple[LocalPath, ...]
    """Files of benchmarks whose abstracts, texts and questions must not be learned from."""
    duplicates: Duplicates
    subtree: tuple[str, ...]
    """Descriptors (UI, name or tree number): a document must have one that is one of them or under one; [] for any."""
    subtree_major: bool
    """Only major headings count for it."""
    sample: Sample
    cluster: Cluster
