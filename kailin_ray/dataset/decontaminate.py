"""What of a run is a benchmark's text, looked for once more before it is published: questions, contexts and answers.

Abstracts were looked through by ``select``; but a model knows benchmarks by heart, and an index may be of other
documents.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kailin_ray.corpus.overlap.benchmarks import Benchmarks, Match
from kailin_ray.dataset.rows import Record
from kailin_ray.errors import ConfigError
from kailin_ray.io.files import sha256
from kailin_ray.schema import ANSWER, ASKING


def load_benchmarks(asked: tuple[Path, ...] | None, cleaned_of: dict[str, str]) -> Benchmarks | None:
    """The benchmarks to look for, None where there are none.

    ``cleaned_of``: those of the run's documents, path by checksum, for ``asked`` None. Raises ``ConfigError`` that
    names one that is not there, or has changed.
    """
    paths = asked
    if asked is None:
        paths = tuple(Path(path) for path in cleaned_of.values())
        for checksum, name in cleaned_of.items():
            path = Path(name)
            if not path.is_file() or sha256(path) != checksum:
                wrong = "has changed since" if path.is_file() else "does not exist any more"
                raise ConfigError(
                    f"benchmarks: {path}, of which the run's documents were cleaned, {wrong}; name the files as "
                    "benchmarks=[...], or publish unchecked with benchmarks=[]"
                )
    for path in paths or ():
        if not path.is_file():
            raise ConfigError(f"benchmarks: {path} does not exist")
    return Benchmarks.load(paths) if paths else None


def find_leaks(records: list[Record], benchmarks: Benchmarks) -> list[tuple[str, Match] | None]:
    """Of each record the first of its texts that has something of a benchmark: whose step it is, and what it has."""
    texts, owners = [], []
    for row, record in enumerate(records):
        for step, text in _texts(record):
            texts.append(text)
            owners.append((row, step))
    found: list[tuple[str, Match] | None] = [None] * len(records)
    for (row, step), match in zip(owners, benchmarks.find(texts), strict=True):
        if match and found[row] is None:
            found[row] = step, match
    contexts = [(row, one["pmid"]) for row, record in enumerate(records) for one in _contexts(record)]
    pmids = np.array([pmid for _, pmid in contexts], dtype=np.int64)
    for (row, _), match in zip(contexts, benchmarks.find_pmids(pmids), strict=True):
        if match and found[row] is None:
            found[row] = ASKING, match
    return found


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    for candidate in record["candidates"] or []:
        yield ASKING, candidate["question"]
    for context in _contexts(record):
        yield ASKING, context["text"]
    if record["answer"]:
        yield ANSWER, record["answer"]


def _contexts(record: Record) -> list[Record]:
    return [context for candidate in record["candidates"] or [] for context in candidate["contexts"]]
