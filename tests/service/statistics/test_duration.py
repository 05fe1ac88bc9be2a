"""A count and a time."""

from service.statistics.duration import Duration


def test_a_duration_is_whole_nanoseconds() -> None:
    duration = Duration()
    duration.add(1.5)
    duration.add(0.25, count=3)
    assert (duration.count, duration.nanoseconds) == (4, 1_750_000_000)
