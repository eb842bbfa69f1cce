"""The actor that tracks the progress of all engines of a run, and the rows that were in an engine when it died."""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from kailin_ray.engines.metering import Account

SHRINK = 8
"""A row that kills engines is searched for in smaller and smaller groups, each an eighth of the size before. Among 512
concurrent rows it is found, and failed, when it has killed four engines."""


class ProgressState(TypedDict):
    """Progress of all engines."""

    accounts: list[Account]
    """The last account of each replica that ever started, including dead replicas."""
    num_open: int
    """Rows that are in an engine."""
    num_left: int
    """Rows that have left an engine, including rows that were distilled again."""
    warnings: list[str]
    """What a person should know about the models, each once."""


class Progress:
    """Actor that knows what the engine actors have done so far, and which rows are in them.

    The driver reads it for the progress line and the session's file. If a row enters again while it is still open, it
    was in an engine that died; ``enter`` counts this.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._open: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._num_left = 0
        self._draining = False
        self._warnings: dict[str, None] = {}

    def tell(self, replica: str, account: Account) -> bool:
        """Replace the account of a replica; return whether the run drains, so that no more rows may begin."""
        if account["seconds"] >= self._accounts.get(replica, account)["seconds"]:  # reports may arrive out of order
            self._accounts[replica] = account
        return self._draining

    def enter(self, pmids: Sequence[int]) -> dict[int, int] | None:
        """Begin rows; return the suspects among them, with their numbers of engine deaths. None: begin no rows.

        Suspects were in an engine when it died. They do not begin yet: they later enter without other rows, with
        ``enter_alone``.
        """
        reentered = self._open.intersection(pmids)
        self._open -= reentered
        self._deaths.update(reentered)
        if self._draining:
            return None
        suspects = {pmid: self._deaths[pmid] for pmid in pmids if pmid in self._deaths}
        self._open.update(pmid for pmid in pmids if pmid not in suspects)
        return suspects

    def enter_alone(self, pmids: Sequence[int]) -> None:
        """Begin a group of suspects."""
        self._open.update(pmids)

    def leave(self, pmids: Sequence[int]) -> None:
        """Note that rows are done, whatever their status."""
        self._open.difference_update(pmids)
        for pmid in pmids:
            self._deaths.pop(pmid, None)
        self._num_left += len(pmids)

    def warn(self, warning: str) -> None:
        """Add a warning, if it is new."""
        self._warnings[warning] = None

    def drain(self) -> None:
        """Let the engines begin no more rows."""
        self._draining = True

    def state(self) -> ProgressState:
        """Return the progress of all engines."""
        return {
            "accounts": list(self._accounts.values()),
            "num_open": len(self._open),
            "num_left": self._num_left,
            "warnings": list(self._warnings),
        }


def group_size(deaths: int, max_concurrent_rows: int) -> int:
    """Return the number of rows that enter an engine together after ``deaths`` deaths each: smaller each time."""
    return max(1, max_concurrent_rows // SHRINK**deaths)


def is_deadly(deaths: int, max_concurrent_rows: int) -> bool:
    """Return whether a row was alone in an engine when it died, and this was not the row's first engine death."""
    return deaths > 1 and group_size(deaths - 1, max_concurrent_rows) == 1
