"""What is counted adds up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import EngineFailed, Overloaded
from service.request import InferRequest, Timings
from service.scheduling.computation import Execution
from service.statistics.statistics import FAILURE_REASONS, Histogram, ModelStatistics, StatisticsTable

SECONDS = st.floats(0, 20, allow_nan=False)
BATCHES = st.lists(st.tuples(st.lists(st.integers(1, 5), min_size=1, max_size=4), SECONDS, SECONDS, SECONDS))


@given(BATCHES, st.lists(st.tuples(st.sampled_from(FAILURE_REASONS), SECONDS)))
def test_requests_batches_and_rows_add_up(
    batches: list[tuple[list[int], float, float, float]], failures: list[tuple[str, float]]
) -> None:
    counted = ModelStatistics()
    for sizes, join, infer, split in batches:
        counted.count_batch(Execution(sum(sizes), join, infer, split))
        for rows in sizes:
            counted.count_success(rows, Timings(0, 0.5, join, infer, split, sum(sizes)), join + infer + split, 7)
    for reason, seconds in failures:
        counted.count_failure(reason, seconds)
    requests = sum(len(sizes) for sizes, *_ in batches)
    assert counted.success.count == counted.queue.count == counted.compute_infer.count == requests
    assert counted.inference_count == sum(sum(sizes) for sizes, *_ in batches)
    assert counted.execution_count == len(batches) == sum(counted.rows_histogram.counts)
    assert counted.inference_count == sum(rows * batch.compute_infer.count for rows, batch in counted.batches.items())
    assert counted.rows_histogram.total == counted.inference_count
    assert sum(counted.request_histogram.counts) == sum(counted.queue_histogram.counts) == requests
    assert sum(counted.failures.values()) == counted.fail.count == len(failures)
    assert sum(counted.decode_histogram.counts) == requests
    assert counted.queue.seconds == pytest.approx(0.5 * requests)
    assert counted.last_inference_ms == (7 if requests else 0)


def test_all_reasons_are_there_from_the_start() -> None:
    assert ModelStatistics().failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 0}
    with pytest.raises(KeyError):
        ModelStatistics().count_failure("ELSE", 0)


def test_a_failure_is_counted_under_its_reason_with_the_time_since_the_request_was_there() -> None:
    counted = ModelStatistics()
    counted.count_failed(InferRequest("m", "", (), received_at=5.0), Overloaded("full"), now=7.0)
    counted.count_failed(InferRequest("m", "", ()), EngineFailed("broken"), now=7.0)
    assert (counted.failures["REJECTED"], counted.failures["BACKEND"]) == (1, 1)
    assert (counted.fail.count, counted.fail.seconds) == (2, 2.0)


def test_a_bucket_takes_its_bound_and_the_last_takes_the_rest() -> None:
    histogram = Histogram((1, 2))
    for value in (0, 1, 1.5, 2, 2.1, 99):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 2]
    assert histogram.total == pytest.approx(105.6)


def test_what_is_counted_of_a_version_is_there_again_when_it_comes_back() -> None:
    table = StatisticsTable()
    table.of("m", "1").count_encode(0.5)
    assert table.of("m", "1").encode_histogram.total == 0.5
    assert table.of("m", "2").encode_histogram.total == table.of("n", "1").encode_histogram.total == 0
