"""A tensor's name, element type and shape, and the check of arrays against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginehouse.dtype import Array, DType
from enginehouse.errors import InvalidInput

Tensors = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a tensor must look like; an open dimension is -1."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype.name} {list(self.shape)}"


def shape_fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    """Tell whether a concrete shape matches one with open dimensions."""
    return len(shape) == len(expected) and all(want in (-1, have) for have, want in zip(shape, expected, strict=True))


def check_tensors(tensors: Tensors, specs: Sequence[TensorSpec], owner: str) -> None:
    """Compare names, element types and shapes of arrays with specs.

    Raises:
        InvalidInput: naming the first tensor that does not fit, what it is and what `owner` takes.
    """
    expected = {spec.name: spec for spec in specs}
    for name in tensors:
        if name not in expected:
            raise InvalidInput(f"unexpected tensor '{name}'; {owner} takes {', '.join(expected)}.")
    for spec in specs:
        if spec.name not in tensors:
            raise InvalidInput(f"missing tensor '{spec.name}'; {owner} takes {', '.join(expected)}.")
        array = tensors[spec.name]
        if spec.dtype.size_bytes and array.dtype != spec.dtype.numpy:
            raise InvalidInput(f"tensor '{spec.name}' is {array.dtype}; {owner} takes {spec.dtype.name}.")
        if not shape_fits(array.shape, spec.shape):
            raise InvalidInput(f"tensor '{spec.name}' has shape {list(array.shape)}; {owner} takes {list(spec.shape)}.")
