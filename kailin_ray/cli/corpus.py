"""Commands that make documents and an index. Heavy modules are imported by the command that needs them."""

from kailin_ray.config import (
    DownloadConfig,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    SelectConfig,
)
from kailin_ray.io.terminal import show


def fetch(config: FetchConfig) -> int:
    """Fetch assets by name."""
    from kailin_ray.offline.assets import fetch_assets

    for name, path in fetch_assets(config).paths.items():
        show(f"{name}: {path}")
    return 0


def download(config: DownloadConfig) -> int:
    """PubMed files from NLM."""
    from kailin_ray.corpus.sources import pubmed_ftp

    result = pubmed_ftp.download(config)
    show(pubmed_ftp.format_download(result))
    for fault in result.refused.values():
        show(f"kailin_ray: refused: {fault}", to_errors=True)
    return 1 if result.refused else 0


def ingest(config: IngestConfig) -> int:
    """A source to documents, or into those that are there."""
    from kailin_ray.corpus.ingest import job

    result = job.ingest(config)
    show(job.format_ingest(result))
    for fault in result.damaged:
        show(f"kailin_ray: damaged file, nothing taken from it: {fault}", to_errors=True)
    return 1 if result.damaged and not config.tolerate_damaged else 0


def select(config: SelectConfig) -> int:
    """A corpus to the documents that are worked on."""
    from kailin_ray.corpus.selection import job

    show(job.format_selection(job.select(config)))
    return 0


def index(config: IndexConfig) -> int:
    """Documents to a dense index, or to one that is there what changed in them."""
    from kailin_ray.retrieval.indexing import job

    show(job.format_index(job.build_index(config)))
    return 0
