"""A tensor's name, element type and shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginehouse.dtype import Array, DType

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
