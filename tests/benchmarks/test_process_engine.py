"""The benchmark measures what it says: the same answers, three ways."""

import numpy as np

from benchmarks.process_engine import COLUMNS, _engines, measure


def test_every_way_answers_alike_and_is_timed() -> None:
    feeds = {"x": np.arange(3 * COLUMNS, dtype=np.float32).reshape(3, COLUMNS)}
    with _engines() as engines:
        for engine in engines:
            np.testing.assert_array_equal(engine.run(feeds)["y"], feeds["x"])
        latencies = measure(engines, feeds, runs=10, rounds=2)
    assert len(latencies) == len(engines) == 3
    assert all(0 < latency.p50 <= latency.p99 for latency in latencies)
