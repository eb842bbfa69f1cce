"""Types of fields that several configurations share."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid")

Step = Literal["question", "evaluation", "answer"]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


WebAddress = Annotated[str, Field(pattern=r"^https?://[^@?#\s]+$")]
"""Of a server, without a user, a password or a query."""
