"""How long a decoupled model takes to its first response, where a histogram of it is kept."""

from enginehouse.errors import Error
from service.clock import Clock
from service.request import InferRequest, InferResponse, Settle
from service.statistics.statistics import Histogram


def follow_first_response(request: InferRequest, settle: Settle, histogram: Histogram, clock: Clock) -> Settle:
    """Count the first response to a request, whether more come or not; an error is none.

    Returns:
        What settles the request from now on; its `emit` is replaced too.
    """
    arrived_at = request.received_at or clock.now()
    emit, is_waiting = request.emit, True

    def note() -> None:
        nonlocal is_waiting
        if is_waiting:
            is_waiting = False
            histogram.observe((clock.now() - arrived_at) * 1000)

    def emit_noted(response: InferResponse) -> None:
        assert emit is not None
        note()
        emit(response)

    def settle_noted(answer: InferResponse | Error) -> None:
        if not isinstance(answer, Error):
            note()
        settle(answer)

    if emit is not None:
        request.emit = emit_noted
    return settle_noted
