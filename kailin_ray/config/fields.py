"""Types of fields that several configurations share."""

from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")

Step = Literal["question", "evaluation", "answer"]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


WebAddress = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]
"""Of a server, without a user, a password or a query."""

COMMAND_LINE_NAMES = {"from_run": "from"}
"""Fields that the command line calls otherwise: ``from`` is a keyword of Python."""


def dataclasses_of(hint: Any) -> list[type[Any]]:
    """Return the dataclasses that a type consists of: itself, or the members of a union."""
    if is_dataclass(hint) and isinstance(hint, type):
        return [hint]
    return [kind for inner in get_args(hint) for kind in dataclasses_of(inner)]
