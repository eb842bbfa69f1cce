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

    out: LocalPath
    """The folder to download into. Files in it that are whole and checked are not downloaded again."""
    folders: Annotated[tuple[Literal["baseline", "updatefiles"], ...], Field(min_length=1)]
    """Which of NLM's folders of PubMed files to download."""
    names: tuple[str, ...] | str
    """A glob of file names, or a list of globs: 'pubmed26n00[0-4]*'."""
    limit: Positive | None
    """Download at most this many files, the first by name."""
    connections: Annotated[int, Field(ge=1, le=8)]
    """Files to download at the same time. NLM asks for moderation."""
    base_url: WebAddress
    """The server: NLM's, or a mirror's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubmedXml:
    """Documents from PubMed's own files."""

    kind: Literal["pubmed_xml"]
    path: tuple[str, ...] | str
    """PubMed XML (.xml or .xml.gz): a file, a directory, a glob, or a list of these."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PubmedQuery:
    """Documents that match a PubMed query, from NCBI's E-utilities."""

    kind: Literal["pubmed_query"]
    query: Annotated[str, Field(min_length=1)]
    """A query in PubMed's own syntax: 'metformin AND 2020[dp]'."""
    max_results: Annotated[int, Field(ge=1, le=9_999)] | None
    """At most this many results, the most recent first; null for all. NCBI returns at most 9,999 results of a query."""
    email: str | None
    """Your address: NCBI writes to it before it blocks an IP address."""
    base_url: WebAddress
    """NCBI's server, or a mirror's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Pmids:
    """Documents with given PMIDs, from NCBI's E-utilities."""

    kind: Literal["pmids"]
    path: LocalPath
    """A text file with one PMID a line, or a CSV file."""
    column: str | None
    """The column of the CSV file that holds the PMIDs; null for a text file."""
    email: str | None
    """Your address: NCBI writes to it before it blocks an IP address."""
    base_url: WebAddress
    """NCBI's server, or a mirror's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Columns:
    """Which column of a table holds which field; null if none does. See `corpus/readers/tables.py` for the cells."""

    pmid: str
    """Column of the PMID."""
    title: str | None
    """Column of the title."""
    abstract: str | None
    """Column of the abstract: a text, a list of texts (sections), or a list of {label, text}."""
    labels: str | None
    """Column of the section labels, if the abstract is a list of texts."""
    year: str | None
    """Column of the year of publication, or of a date."""
    journal: str | None
    """Column of the journal."""
    language: str | None
    """Column of the language, in PubMed's three letters: eng."""
    mesh: str | None
    """Column of the MeSH headings: names or UIs, starred (*) if major; a list, or a text separated by ; or |."""
    keywords: str | None
    """Column of the keywords."""
    publication_types: str | None
    """Column of the publication types."""
    doi: str | None
    """Column of the DOI."""
    pmcid: str | None
    """Column of the PMC id."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Table:
    """Documents from the rows of JSON, JSON lines, CSV or Parquet files."""

    kind: Literal["table"]
    path: tuple[str, ...] | str
    """A file, a directory, a glob, or a list of these: .jsonl, .json, .csv (each also .gz), .parquet."""
    columns: Columns


@dataclass(frozen=True, kw_only=True, config=STRICT)
class HuggingFace:
    """Documents from the rows of a dataset on the Hugging Face hub, or of a local dataset folder."""

    kind: Literal["huggingface"]
    path: str
    """A hub id (owner/name), or a local folder."""
    name: str | None
    """The dataset's config, if it has several."""
    split: str
    """The split to read."""
    revision: str | None
    """The hub revision, best a commit; null for the newest, whose commit is recorded."""
    columns: Columns


Source = Annotated[PubmedXml | PubmedQuery | Pmids | Table | HuggingFace, Field(discriminator="kind")]
"""Where documents come from."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class IngestConfig:
    """``kailin-ray ingest``."""

    source: Source
    out: LocalPath
    """The folder of documents to create or update."""
    tolerate_damaged: bool
    """Exit with 0 even if a file was damaged. Damaged files are counted and printed either way."""
    cluster: Cluster


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Filters:
    """Which documents stay; see `corpus/selection/filters.py`."""

    require_mesh: bool
    """Remove documents without a MeSH heading."""
    min_words: NotNegative
    """Remove documents whose abstract has fewer words. Documents without an abstract are always removed."""
    languages: tuple[str, ...]
    """Keep documents in these languages only (MEDLINE codes such as eng); empty for any."""
    drop_retracted: bool
    """Remove retracted articles."""
    exclude_types: tuple[str, ...]
    """Remove documents of these publication types."""
    year_from: int | None
    """First year of publication that stays; documents without a year are then removed."""
    year_to: int | None
    """Last year of publication that stays; documents without a year are then removed."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sample:
    """A sample of the documents that stay; see `corpus/selection/sampling.py`."""

    size: Positive | None
    """Documents to sample; null for all."""
    seed: NotNegative
    """Another seed draws another sample. The same seed always draws the same documents."""
    stratify_by: Literal["letters", "categories"] | None
    """Stratify by MeSH branch: letters (C, Diseases) or categories (C04, Neoplasms); null for none."""
    period: Literal["year", "decade"] | None
    """Stratify by time of publication; null for none."""
    major_only: bool
    """Use only major headings, which say what a document is about."""
    alpha: Fraction
    """1 keeps the corpus' proportions, 0 samples all strata equally; in between, rare strata gain and common ones
    lose."""
    max_share: Annotated[float, Field(gt=0.0, le=1.0)]
    """The largest share of the sample that one stratum may have."""
    min_per_stratum: NotNegative
    """Take at least this many documents of each stratum, as far as it has them."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SelectConfig:
    """``kailin-ray select``."""

    corpus: LocalPath
    """The folder of documents to select from, made by `ingest` or `select`."""
    out: LocalPath
    """The folder of documents to create, or to update after the corpus was updated."""
    mesh: LocalPath | None
    """The MeSH hierarchy, as for `distill`; `subtree` and `sample` need it."""
    tolerate_orphans: bool
    """Accept tree numbers whose parent is missing, as in subsets of MeSH."""
    filters: Filters
    benchmarks: tuple[LocalPath, ...]
    """Benchmark files (.json, .jsonl, .csv, .parquet; also .gz). Documents with their PMIDs, texts or questions are
    removed."""
    dedup_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """Abstracts are duplicates if their sets of five consecutive words have at least this Jaccard similarity; the
    lowest PMID stays. 1 removes only abstracts with the same words; null keeps all."""
    subtree: tuple[str, ...]
    """Keep documents with a heading at or below one of these descriptors: UI (D009369), name (Neoplasms) or tree number
    (C04.588). [] keeps all."""
    subtree_major_only: bool
    """Let `subtree` look at major headings only."""
    sample: Sample
    cluster: Cluster
