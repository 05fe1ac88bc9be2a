"""Tensors that stay in a client's memory: what a request says of them, for both transports.

A request names a region that was registered before, and which bytes of it. Inputs are read from there while the
request is decoded; outputs are written there while the answer is encoded. The core knows nothing of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from enginehouse.errors import InvalidInput
from service.request import Parameter, WireTensor

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"

_LARGEST = 2**63 - 1


@dataclass(slots=True, frozen=True)
class RegionSlice:
    """Some bytes of a registered region."""

    region: str
    offset: int
    byte_size: int


class ClientMemory(Protocol):
    """The registered regions; each method raises `InvalidInput` for a region or for bytes that are not there."""

    def check(self, region: str, offset: int, byte_size: int) -> None:
        """Refuse what `write` would refuse now: before anything is computed."""

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:
        """The bytes as they are now."""

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:
        """Put `data` at the start of these bytes; it may be shorter, not longer."""


def slice_from_parameters(parameters: Mapping[str, Parameter], whose: str) -> RegionSlice | None:
    """Which bytes of which region a tensor's parameters name; None if they name no region.

    Args:
        parameters: of one input or one output.
        whose: the tensor, for messages, such as `input 'x'`.

    Raises:
        InvalidInput: a name, an offset or a size that makes no sense.
    """
    region = parameters.get(REGION)
    if region is None:
        return None
    if not isinstance(region, str) or not region:
        raise InvalidInput(f"'{REGION}' of {whose} is {region!r}; the name of a registered region is expected.")
    if BYTE_SIZE not in parameters:
        raise InvalidInput(f"{whose} names the region '{region[:80]}' without '{BYTE_SIZE}'; give it too.")
    return RegionSlice(
        region, _size(parameters.get(OFFSET, 0), OFFSET, whose), _size(parameters[BYTE_SIZE], BYTE_SIZE, whose)
    )


def write_outputs(
    outputs: Iterable[WireTensor], slices: Mapping[str, RegionSlice], memory: ClientMemory
) -> frozenset[str]:
    """Write the outputs that go to a client's memory; tell their names, whose data must not be sent as well.

    Raises:
        InvalidInput: an output does not fit where it should go, or the region is gone.
    """
    if not slices:
        return frozenset()
    written: set[str] = set()
    for tensor in outputs:
        place = slices.get(tensor.name)
        if place is None:
            continue
        if len(tensor.data) > place.byte_size:
            raise InvalidInput(
                f"shared memory size specified with the request for output '{tensor.name}' ({place.byte_size} bytes) "
                f"should be at least {len(tensor.data)} bytes to hold the results."
            )
        memory.write(place.region, place.offset, place.byte_size, tensor.data)
        written.add(tensor.name)
    return frozenset(written)


def _size(value: Parameter, key: str, whose: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise InvalidInput(f"'{key}' of {whose} is {value!r}; a number of bytes from 0 is expected.")
    return value
