"""Responses by their place."""

from service.statistics.response_statistics import MAX_PLACES, ResponseStatistics


def test_what_a_response_took_is_told_with_what_it_was() -> None:
    responses = ResponseStatistics()
    responses.count(1, "success", 2.0, 0.5)
    responses.count(1, "fail", 1.0)
    responses.count(0, "empty_response", 4.0)
    responses.count(0, "cancel", 8.0)
    (first, empty), (second, row) = responses.places()
    assert (first, second) == (0, 1)
    assert (row.compute_infer.seconds, row.compute_infer.count) == (3.0, 2)
    assert (row.compute_output.seconds, row.compute_output.count) == (0.5, 1)
    assert (row.success.seconds, row.fail.seconds) == (2.5, 1.0)
    assert (empty.compute_infer.seconds, empty.empty_response.seconds, empty.cancel.seconds) == (4.0, 4.0, 8.0)


def test_a_long_stream_does_not_make_the_statistics_long() -> None:
    responses = ResponseStatistics()
    for place in range(MAX_PLACES + 5):
        responses.count(place, "success", 0.0)
    places = responses.places()
    assert len(places) == MAX_PLACES
    assert places[-1][0] == MAX_PLACES - 1
    assert places[-1][1].success.count == 6
