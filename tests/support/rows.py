"""Citations as the dicts that pyarrow itself would make a table of."""

from collections.abc import Iterable
from typing import Any

from kailin_ray.corpus.readers.citation import Citation


def as_rows(citations: Iterable[Citation], source: str) -> list[dict[str, Any]]:
    """Rows of ``parse.DEALT``."""
    return [
        _dicts(one) | {"source_file": source, "place": place, "cited": not one.deleted}
        for place, one in enumerate(citations)
    ]


def _dicts(value: Any) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _dicts(one) for name, one in value._asdict().items()}
    return [_dicts(one) for one in value] if isinstance(value, list | tuple) else value
