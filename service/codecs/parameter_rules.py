"""What the parameters of a request and of its outputs may be, whichever transport they came by."""

from collections.abc import Mapping

from enginehouse.errors import InvalidInput, NotSupported
from service.codecs.client_tensors import REGION, ClientMemory, RegionSlice, slice_from_parameters
from service.request import Parameter

CLASSES = "classification"

_RESERVED_PREFIX = "triton_"
_CLASSES_LIMIT = 2**31


def check_name(key: str, whose: str) -> None:
    """Raise `InvalidInput` for a parameter whose name is the protocol's own."""
    if key.startswith(_RESERVED_PREFIX):
        raise InvalidInput(
            f"parameter keys starting with '{_RESERVED_PREFIX}' are reserved; '{key[:80]}' of {whose} is one."
        )


def place_of(parameters: Mapping[str, Parameter], whose: str, memory: ClientMemory | None) -> RegionSlice | None:
    """The client's memory that a tensor's parameters name; None if they name none.

    Raises:
        InvalidInput: as `slice_from_parameters` does.
        NotSupported: they name some, and there is none here.
    """
    place = slice_from_parameters(parameters, whose)
    if place is not None and memory is None:
        raise NotSupported(f"{whose} names a shared memory region, which this server does not have.")
    return place


def output_wish(
    parameters: Mapping[str, Parameter], name: str, memory: ClientMemory | None
) -> tuple[RegionSlice | None, int]:
    """Where the client wants an output, and as how many of its highest classes.

    Args:
        parameters: of the output.
        name: of the output.
        memory: what clients registered; None if they cannot.

    Returns:
        A place in the client's memory, None for the answer itself; and a number of classes, 0 for the values.

    Raises:
        InvalidInput: one of them makes no sense, both are wanted, or the place cannot be written.
        NotSupported: as `place_of` does.
    """
    classes = parameters.get(CLASSES, 0)
    if type(classes) is not int or not 0 <= classes < _CLASSES_LIMIT:
        raise InvalidInput(f"'{CLASSES}' of output '{name}' is {classes!r}; a number of classes is expected.")
    place = place_of(parameters, f"output '{name}'", memory)
    if place is None or memory is None:
        return None, classes
    if classes:
        raise InvalidInput(f"output '{name}' cannot have both '{REGION}' and '{CLASSES}'; choose one.")
    memory.check(place.region, place.offset, place.byte_size)
    return place, 0
