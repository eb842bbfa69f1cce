"""Commands that make documents and an index."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kailin_ray.config import (
    DownloadConfig,
    FetchConfig,
    IndexConfig,
    IngestConfig,
    SelectConfig,
)
from kailin_ray.errors import CommandFailedError, ConfigError
from kailin_ray.io.files import read_manifest
from kailin_ray.io.locks import locked
from kailin_ray.io.storage import log_file
from kailin_ray.offline import assets
from kailin_ray.retrieval.encoder_models import found_encoder
from kailin_ray.runtime.faults import one_line_faults


def fetch(config: FetchConfig) -> int:
    """Fetch assets by name."""
    for name in config.assets:
        if name not in assets.ASSETS:
            raise ConfigError(f"assets: unknown {name!r}; allowed: {', '.join(assets.ASSETS)}")
    for name in config.assets:
        try:
            print(f"{name}: {assets.fetch(name, config.to)}")
        except assets.FetchError as error:
            raise CommandFailedError(str(error)) from error
    return 0


def download(config: DownloadConfig) -> int:
    """PubMed files from NLM."""
    from kailin_ray.corpus.sources.pubmed_ftp import download as fetch_files

    done = fetch_files(config, sys.stderr)
    print(
        f"{config.to}: {len(done.fetched):,} files fetched ({done.num_bytes / 1e6:,.1f} MB came), "
        f"{done.there_already:,} were there already, {len(done.refused):,} refused"
    )
    for fault in done.refused.values():
        print(f"kailin_ray: refused: {fault}", file=sys.stderr)
    return 1 if done.refused else 0


def ingest(config: IngestConfig) -> int:
    """A source to documents, or into those that are there."""
    from kailin_ray.corpus.documents import opened
    from kailin_ray.corpus.sources.resolve import reading, source_files

    with locked(config.out):
        made = opened(config.out, "ingest")
        files = source_files(config.source, config.out, sys.stderr)
        from kailin_ray.corpus.ingest.job import make_documents, new_files
        from kailin_ray.runtime.session import ray_session

        fresh = new_files(files, reading(config.source), made)
        if fresh:
            with one_line_faults(log_file(config.out)), ray_session(config.cluster, log_file(config.out)) as terminal:
                manifest = make_documents(config, fresh, made, terminal)
        else:
            assert made
            manifest = made | {"damaged": []}
            print(f"{config.out}: made already, of these files and {len(made['files']) - len(files)} others")
    _tell_documents(config.out, manifest, made is not None and len(manifest["updates"]) > len(made["updates"]))
    for fault in manifest["damaged"]:
        print(f"kailin_ray: damaged file, nothing taken from it: {fault}", file=sys.stderr)
    return 1 if manifest["damaged"] and not config.tolerate else 0


def _tell_documents(out: Path, manifest: dict[str, Any], updated: bool) -> None:
    from kailin_ray.corpus.changes import told_update

    left_out = ", ".join(f"{number:,} {name}" for name, number in manifest["num_left_out"].items() if number)
    print(
        f"{out}: {manifest['num_documents']:,} documents ({manifest['num_with_mesh']:,} with MeSH headings) of "
        f"{manifest['num_citations']:,} citations" + (f"; left out: {left_out}" if left_out else "")
    )
    if updated:
        print(told_update(manifest))
    if manifest["num_skipped"]:
        print("records that are no citation: " + json.dumps(manifest["num_skipped"]))


def select(config: SelectConfig) -> int:
    """A corpus to the documents that are worked on."""
    corpus = read_manifest(config.corpus, "documents", "corpus", "ingest")
    from kailin_ray.corpus.documents import opened
    from kailin_ray.corpus.selection import job as selection
    from kailin_ray.runtime.session import ray_session

    with locked(config.out):
        made = opened(config.out, "select")
        if selection.up_to_date(config, corpus, made):
            manifest: Any = made
            print(f"{config.out}: made already")
        else:
            with one_line_faults(log_file(config.out)), ray_session(config.cluster, log_file(config.out)) as terminal:
                manifest = selection.select(config, corpus, made, terminal)
    print(selection.summary(config.out, manifest))
    return 0


def index(config: IndexConfig) -> int:
    """Documents to a dense index, or to one that is there what changed in them."""
    read_manifest(config.documents, "documents", "documents", "ingest")
    config = replace(config, encoder=found_encoder(config.encoder))
    from kailin_ray.retrieval.indexing import job
    from kailin_ray.runtime.nodes import check_encoders, cluster_nodes
    from kailin_ray.runtime.session import ray_session

    with locked(config.out):
        made = job.opened_index(config)
        if job.up_to_date(config, made):
            manifest: Any = made
            print(f"{config.out}: made already")
        else:
            with one_line_faults(log_file(config.out)), ray_session(config.cluster, log_file(config.out)) as terminal:
                check_encoders(config.cluster, cluster_nodes(config.cluster))
                manifest = job.make_index(config, made, terminal)
    print(job.summary(config.out, manifest))
    return 0
