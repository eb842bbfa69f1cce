"""The actor that knows how far all engines of a run are, and which rows were in one that died."""

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

from kailin_ray.engines.metering import Account

SHRINK = 8
"""Rows that an engine died of are looked for in ever smaller groups, each an eighth of the one before: of 512 rows in
flight the one that kills is found, and failed, with the fourth engine that it kills."""


class ProgressState(TypedDict):
    """How far all engines are."""

    accounts: list[Account]
    """The last of each replica that ever started, dead ones too."""
    num_open: int
    """Rows that are in an engine."""
    num_left: int
    """Rows that were finished, those that were done again too."""


class Progress:
    """Actor: what the engine actors did so far, and which rows they work on.

    The driver reads it to show it and to write it down. A row that comes again while it is still being worked on was in
    an engine that died: ``enter`` counts that.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._open: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._num_left = 0
        self._draining = False

    def tell(self, replica: str, account: Account) -> bool:
        """The account of one replica so far, which replaces its last one; return whether to begin no more rows."""
        if account["seconds"] >= self._accounts.get(replica, account)["seconds"]:  # words may overtake one another
            self._accounts[replica] = account
        return self._draining

    def enter(self, pmids: Sequence[int]) -> dict[int, int] | None:
        """Begin with rows; return those that were in an engine that died, with how often. None: begin with no more.

        Those are not begun yet: they go into an engine without other rows, see ``enter_alone``.
        """
        died = self._open.intersection(pmids)
        self._open -= died
        self._deaths.update(died)
        if self._draining:
            return None
        suspects = {pmid: self._deaths[pmid] for pmid in pmids if pmid in self._deaths}
        self._open.update(pmid for pmid in pmids if pmid not in suspects)
        return suspects

    def enter_alone(self, pmids: Sequence[int]) -> None:
        """Begin with a group of suspects."""
        self._open.update(pmids)

    def leave(self, pmids: Sequence[int]) -> None:
        """Rows are done, whatever became of them."""
        self._open.difference_update(pmids)
        for pmid in pmids:
            self._deaths.pop(pmid, None)
        self._num_left += len(pmids)

    def drain(self) -> None:
        """Let the engines begin no more rows."""
        self._draining = True

    def state(self) -> ProgressState:
        """How far all engines are."""
        return {"accounts": list(self._accounts.values()), "num_open": len(self._open), "num_left": self._num_left}


def group_size(deaths: int, rows_in_flight: int) -> int:
    """How many rows that were in an engine ``deaths`` times when it died go into one together: ever fewer."""
    return max(1, rows_in_flight // SHRINK**deaths)


def is_deadly(deaths: int, rows_in_flight: int) -> bool:
    """Whether a row was the only one in an engine when it died, and that was not the first time."""
    return deaths > 1 and group_size(deaths - 1, rows_in_flight) == 1
