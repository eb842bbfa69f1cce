"""What the accepted rows are like: their decisions, the agents whose questions they are, and how questions open.

Sample::

    {"decisions": {"yes": 178, "no": 12, "none": 19}, "agents": {"general": 120, "biomedical": 89},
     "openings": {"does the": 31, "is there": 12, ...}}

``none``: not a yes/no question. ``openings`` are the first two words of questions, in lower case; the most common are
listed.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from typing_extensions import TypedDict  # pydantic does not accept typing.TypedDict before Python 3.12

from kailin_ray.schema import Json

NUM_OPENINGS = 20
"""Openings that a manifest lists."""
_SHOWN = 5


class Variety(TypedDict):
    """Numbers of rows; see the sample above."""

    decisions: dict[str, int]
    agents: dict[str, int]
    openings: dict[str, int]


@dataclass
class VarietyCounter:
    """Counts rows. Memory grows with the number of distinct openings, not of rows."""

    _decisions: Counter[str] = field(default_factory=Counter)
    _agents: Counter[str] = field(default_factory=Counter)
    _openings: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Iterable[tuple[str | None, str, str]]) -> None:
        """Count rows, each the word of the decision (None: no yes/no question), the agent and the question."""
        for decision, agent, question in rows:
            self._decisions[decision or "none"] += 1
            self._agents[agent] += 1
            self._openings[" ".join(question.lower().split()[:2])] += 1

    def counts(self) -> Variety:
        """Return what was counted, the most common first."""
        return {
            "decisions": _sort(self._decisions),
            "agents": _sort(self._agents),
            "openings": dict([*_sort(self._openings).items()][:NUM_OPENINGS]),
        }


def _sort(counter: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def describe_variety(variety: Variety, config: Json) -> dict[str, list[tuple[str, int]]]:
    """Return the counts to show, by title; ``config`` is the run's, and names the personas of its agents."""
    return {
        "decisions": list(variety["decisions"].items()),
        "personas": [(_persona(agent, config), number) for agent, number in variety["agents"].items()],
        "openings": list(variety["openings"].items())[:_SHOWN],
    }


def _persona(agent: str, config: Mapping[str, Json]) -> str:
    settings = config.get("model", {}).get(agent) or {}
    persona = settings.get("persona")
    return f"{agent} ({persona})" if persona else agent
