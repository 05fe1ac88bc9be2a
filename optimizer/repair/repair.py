"""What a repair is: a float graph goes in, and one comes out that bears quantization better."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.trial import RepairName

# From a float graph to its quantized form, with everything else decided; node names survive.
Quantize = Callable[[Graph], Graph | Declined]

# In this order: what moves values between weights and activations comes before what fits integers to them, and biases
# come last because they take up what all the others leave.
REPAIRS: dict[RepairName, str] = {
    "equalization": "optimizer.repair.equalization:equalize",
    "smooth_quant": "optimizer.repair.smooth_quant:smooth",
    "adaptive_rounding": "optimizer.repair.adaptive_rounding:round_adaptively",
    "bias_correction": "optimizer.repair.bias_correction:correct_biases",
}
# After these the activations have other ranges.
NEEDS_RECALIBRATION: frozenset[RepairName] = frozenset(("equalization", "smooth_quant"))


@dataclass(frozen=True, slots=True)
class Repaired:
    """The repaired float graph, and one clause that says what was done and what it gained."""

    graph: Graph
    detail: str


class Repair(Protocol):
    """One rung of the ladder. It declines where it does not apply, or where the quantized outputs do not get nearer.

    Args:
        graph: the float graph, its nodes named; it is not edited.
        layers: names of the nodes that are going to be quantized.
        quantize: makes the quantized form of a float graph.
        feeds: rows to learn from, in batches small enough for the activations of one to lie in memory.
        reference: a float graph with the same node names that says what is right; `graph` where None. It differs from
            `graph` where an earlier repair has already bent the float weights (adaptive rounding).
    """

    def __call__(
        self,
        graph: Graph,
        layers: Collection[str],
        quantize: Quantize,
        feeds: Sequence[Tensors],
        reference: Graph | None = None,
    ) -> Repaired | Declined: ...
