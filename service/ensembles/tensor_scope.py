"""Tensors of an ensemble that belong together, each held only as long as somebody still needs it."""

from collections.abc import Mapping

from service.request import SequencePosition, WireTensor


class TensorScope:
    """Those of the request, or those that follow from one answer of a decoupled step.

    Attributes:
        number: of the scope in the plan.
        order: of the answer, among all those that the ensemble gives to its request.
        tensors: by name in the ensemble; None for an optional one that was not given.
        uses: by tensor, how often it is still to be looked at.
        sequences: by tensor, the sequence of what is made of it, where a step said so.
        started: positions of the steps that were given these tensors.

    Args:
        uses: as at the beginning; copied.
    """

    __slots__ = ("number", "order", "sequences", "started", "tensors", "uses")

    def __init__(self, number: int, order: int, uses: Mapping[str, int]) -> None:
        self.number = number
        self.order = order
        self.tensors: dict[str, WireTensor | None] = {}
        self.uses = dict(uses)
        self.sequences: dict[str, SequencePosition | None] = {}
        self.started: set[int] = set()

    def use(self, name: str) -> WireTensor | None:
        """Look at a tensor once; the last look takes it out."""
        self.uses[name] -= 1
        return self.tensors[name] if self.uses[name] else self.tensors.pop(name)
