"""A node that an engine's library cannot take, and why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnsupportedNode:
    """One node, or one input or output whose type the library has not; the reason is a clause."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} '{self.node}': {self.reason}"
