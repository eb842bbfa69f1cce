"""Python's search for garbage, held back."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search() -> Iterator[None]:
    """Hold back the search for cycles of garbage: for work that is short, and makes many objects but no cycles.

    Each 700 new objects set the search off, which would cost a fifth of such work and find nothing.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()
