"""Timings as clients read them."""

from service.codecs.timing import server_timing, timing_parameters
from service.request import Timings

TIMINGS = Timings(
    decode=0.0001, queue=0.002, compute_input=0.001, compute_infer=0.004, compute_output=0.0005, batch_rows=8
)


def test_the_header_has_milliseconds_and_the_rows_of_the_batch() -> None:
    expected = 'decode;dur=0.100, queue;dur=2.000, compute;dur=5.500, encode;dur=0.250, batch;desc="8"'
    assert server_timing(TIMINGS, 0.00025) == expected


def test_the_parameters_are_whole_microseconds() -> None:
    assert timing_parameters(TIMINGS) == {"decode_us": 100, "queue_us": 2000, "compute_us": 5500, "batch_rows": 8}


def test_a_clock_that_went_backwards_is_not_told_as_negative_time() -> None:
    odd = Timings(decode=-0.1, queue=0, compute_input=0, compute_infer=0, compute_output=0, batch_rows=1)
    assert server_timing(odd, -1.0).startswith("decode;dur=0.000, ")
    assert timing_parameters(odd)["decode_us"] == 0
