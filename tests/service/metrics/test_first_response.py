"""The first response counts, once, and only of a request that has one."""

from enginehouse.errors import EngineFailed
from service.clock import FakeClock
from service.metrics.first_response import follow_first_response
from service.request import InferResponse, Timings
from service.statistics.statistics import Histogram
from tests.service.conftest import Answers, make_request

RESPONSE = InferResponse("m", "1", "", (), Timings(0, 0, 0, 0, 0, 1))


def test_later_responses_and_the_end_do_not_count() -> None:
    clock, histogram, answers = FakeClock(), Histogram((100, 500)), Answers()
    emitted: list[InferResponse] = []
    request = make_request(emit=emitted.append, received_at=clock.now() - 0.1)
    settle = follow_first_response(request, answers.settle("a"), histogram, clock)
    assert request.emit is not None
    clock.advance(0.3)
    request.emit(RESPONSE)
    clock.advance(9)
    request.emit(RESPONSE)
    settle(RESPONSE)
    assert (histogram.counts, round(histogram.total)) == ([0, 1, 0], 400)
    assert emitted == [RESPONSE, RESPONSE]
    assert answers.of["a"] == [RESPONSE]


def test_one_answer_alone_is_the_first() -> None:
    clock, histogram, answers = FakeClock(), Histogram((100,)), Answers()
    settle = follow_first_response(make_request(), answers.settle("a"), histogram, clock)
    clock.advance(0.05)
    settle(RESPONSE)
    assert histogram.counts == [1, 0]
    assert answers.of["a"] == [RESPONSE]


def test_an_error_is_no_response() -> None:
    histogram, answers = Histogram((100,)), Answers()
    settle = follow_first_response(make_request(), answers.settle("a"), histogram, FakeClock())
    settle(EngineFailed("broken"))
    assert histogram.counts == [0, 0]
    assert str(answers.error("a")) == "broken"
