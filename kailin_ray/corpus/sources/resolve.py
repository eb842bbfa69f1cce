"""Where documents come from: each kind of source becomes files of citations, and a word on how to read them."""

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
    """The files of a source, in the order of their names, by which they are told apart.

    What comes over the network is kept beside ``out``, in ``<out>.fetched``, and fetched where it is not there. Raises
    ``ConfigError`` for what is wrong with the source, ``RuntimeError`` where a server fails.
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
    # What they import takes a second.
    from kailin_ray.corpus.sources.huggingface import dataset_files
    from kailin_ray.corpus.sources.pubmed_search import pmid_files, query_files

    try:
        if isinstance(source, PubmedQuery):
            return query_files(source, folder, terminal)
        if isinstance(source, Pmids):
            return pmid_files(source, folder, terminal)
        return dataset_files(source, list((table_columns(source) or {}).values()), folder, terminal)
    except ConfigError:
        with suppress(OSError):  # which it raises where something is in it
            folder.rmdir()
        raise


def table_columns(source: Source) -> dict[str, str] | None:
    """The column of each field in the tables of a source; None for PubMed XML."""
    if not isinstance(source, Table | HuggingFace):
        return None
    return {field: column for field, column in asdict(source.columns).items() if column}


def _check_columns(file: Path, columns: list[str]) -> None:
    """Refuse a wrong column before anything starts. What else is wrong with a file, its worker will say."""
    try:
        next(read_table(file, columns), None)
    except MissingColumnError as error:
        raise ConfigError(f"source.columns: {error}") from error
    except (DamagedFileError, OSError):
        pass


def find_files(paths: tuple[str, ...] | str, endings: tuple[str, ...]) -> list[Path]:
    """The files that ``paths`` (files, directories of files with some ``endings``, globs) name.

    They are in the order of their names: NLM numbers them.

    Raises ``ConfigError`` for a path that names none, and for two files of one name: the name is a file's identity.
    """
    found: dict[Path, Path] = {}
    for path in (paths,) if isinstance(paths, str) else paths:
        if Path(path).is_dir():
            matches = [p for p in Path(path).iterdir() if p.name.endswith(endings)]
            fault = f"no {' or '.join(endings)} file in this directory"
        else:
            # The pattern may be absolute; and a file's own name may look like one.
            matches = [Path(path)] if Path(path).exists() else [Path(p) for p in glob.glob(path)]  # noqa: PTH207
            fault = "matches no file" if glob.has_magic(path) else "does not exist"
        if not matches:
            raise ConfigError(f"source.path: {path}: {fault}")
        for match in matches:
            if any("\ud800" <= character <= "\udfff" for character in str(match)):
                raise ConfigError(f"source.path: {str(match)!a}: a name that is not UTF-8; rename it")
        # One file by two ways counts once; it keeps the name it was given by, which says its place in the order.
        found |= {p.resolve(): p.absolute() for p in matches}
    if not found:
        raise ConfigError("source.path: an empty list; name at least one file")
    files = sorted(found.values(), key=lambda p: (p.name, str(p)))
    for one, other in itertools.pairwise(files):
        if one.name == other.name:
            raise ConfigError(f"source.path: {one} and {other} have one name, by which files are told apart")
    return files
