"""Resolve each kind of source into files of citations, and the columns with which to read them."""

import glob
import itertools
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from kailin_ray.config import HuggingFace, Pmids, PubmedQuery, PubmedXml, Source, Table
from kailin_ray.corpus.readers.pubmed_xml import DamagedFileError
from kailin_ray.corpus.readers.table_rows import ENDINGS, MissingColumnError, read_table
from kailin_ray.errors import ConfigError

XML_ENDINGS = (".xml", ".xml.gz")


def source_files(source: Source, out: Path, terminal: TextIO) -> list[Path]:
    """Return the files of a source, sorted by name. Their names identify them.

    Files from the network are kept next to ``out``, in ``<out>.fetched``; missing files are fetched. Raises
    ``ConfigError`` if the source is wrong, and ``RuntimeError`` if a server fails.
    """
    if isinstance(source, PubmedXml):
        return find_files(source.path, XML_ENDINGS)
    if isinstance(source, Table):
        files = find_files(source.path, ENDINGS)
        for file in files:
            if not file.name.endswith(ENDINGS):
                raise ConfigError(f"source.path: {file}: not a table; allowed: {', '.join(ENDINGS)}")
    else:
        files = _fetch_source(source, out.absolute().with_name(f"{out.name}.fetched"), terminal)
    if columns := table_columns(source):
        _check_columns(files[0], list(columns.values()))
    return files


def _fetch_source(source: PubmedQuery | Pmids | HuggingFace, folder: Path, terminal: TextIO) -> list[Path]:
    # Imported here because their own imports take a second.
    from kailin_ray.corpus.sources.huggingface import dataset_files
    from kailin_ray.corpus.sources.pubmed_search import pmid_files, query_files

    try:
        if isinstance(source, PubmedQuery):
            return query_files(source, folder, terminal)
        if isinstance(source, Pmids):
            return pmid_files(source, folder, terminal)
        return dataset_files(source, list((table_columns(source) or {}).values()), folder, terminal)
    except ConfigError:
        with suppress(OSError):  # raised if the folder is not empty
            folder.rmdir()
        raise


def table_columns(source: Source) -> dict[str, str] | None:
    """Return the column of each field in the tables of a source; None for PubMed XML."""
    if not isinstance(source, Table | HuggingFace):
        return None
    return {field: column for field, column in asdict(source.columns).items() if column}


def _check_columns(file: Path, columns: list[str]) -> None:
    """Refuse a wrong column before anything starts. Workers report all other errors of a file."""
    try:
        next(read_table(file, columns), None)
    except MissingColumnError as error:
        raise ConfigError(f"source.columns: {error}") from error
    except (DamagedFileError, OSError):
        pass


def find_files(paths: tuple[str, ...] | str, endings: tuple[str, ...]) -> list[Path]:
    """Return the files that ``paths`` name (files, globs, or directories, whose files must have one of ``endings``).

    Files are sorted by name, since NLM numbers them. Raises ``ConfigError`` for a path that matches no file, and for
    two files with the same name, because the name identifies a file.
    """
    by_target: dict[Path, Path] = {}
    for path in (paths,) if isinstance(paths, str) else paths:
        if Path(path).is_dir():
            matches = [p for p in Path(path).iterdir() if p.name.endswith(endings)]
            problem = f"no {' or '.join(endings)} file in this directory"
        else:
            # Path.glob refuses absolute patterns. An existing file's name may look like a pattern.
            matches = [Path(path)] if Path(path).exists() else [Path(p) for p in glob.glob(path)]  # noqa: PTH207
            problem = "matches no file" if glob.has_magic(path) else "does not exist"
        if not matches:
            raise ConfigError(f"source.path: {path}: {problem}")
        for match in matches:
            if any("\ud800" <= character <= "\udfff" for character in str(match)):
                raise ConfigError(f"source.path: {str(match)!a}: a name that is not UTF-8; rename it")
        # A file that two paths name counts once. It keeps the name in the path, which decides its place in the order.
        by_target |= {p.resolve(): p.absolute() for p in matches}
    if not by_target:
        raise ConfigError("source.path: an empty list; name at least one file")
    files = sorted(by_target.values(), key=lambda p: (p.name, str(p)))
    for previous, file in itertools.pairwise(files):
        if previous.name == file.name:
            raise ConfigError(f"source.path: {previous} and {file} have the same name; file names must be unique")
    return files
