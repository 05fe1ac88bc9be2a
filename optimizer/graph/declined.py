"""A step that does not apply to a graph, and why: a value, not an error."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Declined:
    """The reason is a clause that a message can end with; `node` is said where it is of one place in the graph."""

    reason: str
    node: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" if self.node else self.reason
