"""Search questions, contexts and answers of a run for text of benchmarks, before the run is published.

``select`` has already searched the abstracts. But a model may have memorized benchmarks, and the index may have been
built from other documents.
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
    """Return the benchmarks to search for, None if there are none.

    ``asked``: their files. If it is None, those of ``cleaned_of`` are used: the benchmarks that the run's documents
    were cleaned of, path by checksum. Raises ``ConfigError`` that names a file that is missing or has changed.
    """
    paths = asked
    if asked is None:
        paths = tuple(Path(path) for path in cleaned_of.values())
        for checksum, name in cleaned_of.items():
            path = Path(name)
            if not path.is_file() or sha256(path) != checksum:
                problem = "has changed since" if path.is_file() else "no longer exists"
                raise ConfigError(
                    f"benchmarks: {path}, which the run's documents were cleaned of, {problem}; name the files as "
                    "benchmarks=[...], or publish without a check with benchmarks=[]"
                )
    for path in paths or ():
        if not path.is_file():
            raise ConfigError(f"benchmarks: {path} does not exist")
    return Benchmarks.load(paths) if paths else None


def find_leaks(records: list[Record], benchmarks: Benchmarks) -> list[tuple[str, Match] | None]:
    """Return for each record the first match with a benchmark: the step that the text belongs to, and the match.

    None for a record without a match. The texts are searched before the PMIDs of the contexts.
    """
    texts, owners = [], []
    for row, record in enumerate(records):
        for step, text in _texts(record):
            texts.append(text)
            owners.append((row, step))
    leaks: list[tuple[str, Match] | None] = [None] * len(records)
    for (row, step), match in zip(owners, benchmarks.find(texts), strict=True):
        if match and leaks[row] is None:
            leaks[row] = step, match
    contexts = [(row, context["pmid"]) for row, record in enumerate(records) for context in _contexts(record)]
    pmids = np.array([pmid for _, pmid in contexts], dtype=np.int64)
    for (row, _), match in zip(contexts, benchmarks.find_pmids(pmids), strict=True):
        if match and leaks[row] is None:
            leaks[row] = ASKING, match
    return leaks


def _texts(record: Record) -> Iterator[tuple[str, str]]:
    for candidate in record["candidates"] or []:
        yield ASKING, candidate["question"]
    for context in _contexts(record):
        yield ASKING, context["text"]
    if record["answer"]:
        yield ANSWER, record["answer"]


def _contexts(record: Record) -> list[Record]:
    return [context for candidate in record["candidates"] or [] for context in candidate["contexts"]]
