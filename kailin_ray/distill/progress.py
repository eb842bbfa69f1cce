"""The actor that tracks the progress of all engines of a run, and the rows that were in an engine when it died."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypedDict

from kailin_ray.engines.metering import Account

SHRINK = 8
"""A row that kills engines is searched for in smaller and smaller groups, each an eighth of the size before. Among 512
to 1,023 concurrent rows it is found, and failed, when it has killed four engines."""


class ProgressState(TypedDict):
    """Progress of all engines."""

    accounts: dict[str, Account]
    """The last account of each replica that reported since this actor started, including dead replicas."""
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

    Its state is advice, and nobody depends on it: if this actor dies, it starts again without any. Within a second each
    replica reports its account and its open rows, and the driver knows the accounts of dead replicas. Only the numbers
    of engine deaths are lost, so a row that kills engines is found later.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._open: dict[str, set[int]] = defaultdict(set)
        """The rows in each replica's engine."""
        self._deaths: Counter[int] = Counter()
        self._num_left = 0
        self._draining = False
        self._warnings: dict[str, None] = {}

    def tell(self, replica: str, account: Account, pmids: Iterable[int] | None = None) -> bool:
        """Replace the account of a replica; return whether the run drains, so that no more rows may begin.

        ``pmids`` are all rows in its engine, if it says so.
        """
        if account["seconds"] >= self._accounts.get(replica, account)["seconds"]:  # reports may arrive out of order
            self._accounts[replica] = account
            if pmids is not None:
                self._open[replica] = set(pmids)
        return self._draining

    def enter(self, replica: str, pmids: Sequence[int]) -> dict[int, int] | None:
        """Begin rows; return the suspects among them, with their numbers of engine deaths. None: begin no rows.

        Suspects were in an engine when it died. They do not begin yet: they later enter without other rows, with
        ``enter_alone``.
        """
        for rows in self._open.values():
            reentered = rows.intersection(pmids)
            rows -= reentered
            self._deaths.update(reentered)
        if self._draining:
            return None
        suspects = {pmid: self._deaths[pmid] for pmid in pmids if pmid in self._deaths}
        self._open[replica].update(pmid for pmid in pmids if pmid not in suspects)
        return suspects

    def enter_alone(self, replica: str, pmids: Sequence[int]) -> None:
        """Begin a group of suspects."""
        self._open[replica].update(pmids)

    def leave(self, replica: str, pmids: Sequence[int]) -> None:
        """Note that rows are done, whatever their status."""
        self._open[replica].difference_update(pmids)
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
            "accounts": self._accounts,
            "num_open": sum(map(len, self._open.values())),
            "num_left": self._num_left,
            "warnings": list(self._warnings),
        }


def group_size(deaths: int, max_concurrent_rows: int) -> int:
    """Return the number of rows that enter an engine together after ``deaths`` deaths each: smaller each time."""
    return max(1, max_concurrent_rows // SHRINK**deaths)


def is_deadly(deaths: int, max_concurrent_rows: int) -> bool:
    """Return whether a row was alone in an engine when it died, and this was not the row's first engine death."""
    return deaths > 1 and group_size(deaths - 1, max_concurrent_rows) == 1
