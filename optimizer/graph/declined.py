"""A step that does not apply to a graph, and why: a value, not an error."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Declined:
    """The reason is a clause that a message can end with."""

    reason: str
