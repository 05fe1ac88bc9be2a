"""Request parameters that the protocol gives a meaning, moved from the client's parameters into fields of their own.

`priority` and `timeout` are the schedule policy extension's, `sequence_*` the sequence extension's. Both transports
hand parameters on as they came; this is the one place that reads these.
"""

from collections.abc import Mapping

from enginehouse.errors import InvalidInput
from service.request import InferRequest, Parameter, SequencePosition

SEQUENCE_PARAMETERS = frozenset(("sequence_id", "sequence_start", "sequence_end"))
RESERVED_PARAMETERS = SEQUENCE_PARAMETERS | {"priority", "timeout"}

MAX_TEXT_ID_BYTES = 128
_MAX_WHOLE = 2**64 - 1


def take_reserved(request: InferRequest) -> None:
    """Move the reserved parameters into the request's fields; what stays in `parameters` is the client's own.

    It may be called again for a request that was already treated. An id of 0 or without a letter is none.

    Raises:
        InvalidInput: naming the parameter, what it is and what is expected; the request is unchanged.
    """
    given = request.parameters
    if not given or RESERVED_PARAMETERS.isdisjoint(given):
        return
    priority = _whole(given, "priority", "a level, a whole number from 0", request.priority)
    timeout = _whole(given, "timeout", "microseconds, a whole number from 0", None)
    sequence = sequence_of(given)
    request.priority = priority or 0
    if timeout is not None:
        request.timeout_seconds = timeout / 1e6
    request.sequence = sequence or request.sequence
    request.parameters = {key: value for key, value in given.items() if key not in RESERVED_PARAMETERS}


def _whole(given: Mapping[str, Parameter], name: str, expected: str, default: int | None) -> int | None:
    value = given.get(name, default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_WHOLE:
        raise InvalidInput(f"parameter '{name}' is {_short(value)}; expected {expected}.")
    return value


def sequence_of(given: Mapping[str, Parameter]) -> SequencePosition | None:
    """The place in a sequence that parameters name; None for none. Raises `InvalidInput` as `take_reserved` does."""
    is_start = _flag(given, "sequence_start")
    is_end = _flag(given, "sequence_end")
    sequence_id = given.get("sequence_id", 0)
    if isinstance(sequence_id, str):
        size = len(sequence_id.encode(errors="replace"))
        if size > MAX_TEXT_ID_BYTES:
            raise InvalidInput(f"parameter 'sequence_id' has {size} bytes; at most {MAX_TEXT_ID_BYTES} are allowed.")
    else:
        _whole(given, "sequence_id", "a whole number from 0 to 2**64 - 1, or text", None)
    # bool and float were refused above.
    return SequencePosition(sequence_id, is_start, is_end) if sequence_id else None  # type: ignore[arg-type]


def parameters_of(sequence: SequencePosition | None) -> Mapping[str, Parameter]:
    """The parameters that name a place in a sequence, as `sequence_of` reads them; nothing for none."""
    if sequence is None:
        return {}
    return {"sequence_id": sequence.id, "sequence_start": sequence.is_start, "sequence_end": sequence.is_end}


def _flag(given: Mapping[str, Parameter], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"parameter '{name}' is {_short(value)}; expected true or false.")
    return value


def _short(value: Parameter) -> str:
    return repr(value)[:60]
