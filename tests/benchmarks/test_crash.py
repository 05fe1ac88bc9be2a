"""The benchmark kills what it says, and tells requests near a kill from the others."""

import numpy as np

from benchmarks.crash import Kills, is_answered_once, measure
from benchmarks.open_loop import Outcome


def outcome(*status: int) -> Outcome:
    times = np.arange(len(status), dtype=np.float64)
    return Outcome(1.0, times, times, np.array(status, np.int16))


def test_near_is_a_second_after_a_kill_and_before_a_start() -> None:
    kills = Kills(killed=[10.0], back=[15.0])
    due = np.array([9.9, 10.0, 10.9, 11.0, 13.9, 14.0, 14.9, 15.0])
    assert kills.disturbs(due).tolist() == [False, True, True, False, False, True, True, False]


def test_an_answer_that_is_missing_or_counted_twice_is_told() -> None:
    assert is_answered_once(outcome(200, 200, 500, 503), (2, 2)) == "yes"
    assert is_answered_once(outcome(200, 200, 500, 503), (2, 3)) == "NO: the server counts 2 and 3 failures"
    assert is_answered_once(outcome(200, 0), (1, 0)).startswith("NO")


def test_the_victim_is_killed_and_the_neighbour_answers() -> None:
    result = measure(seconds=3.0, every=1.0, rates={"victim": 30.0, "neighbour": 20.0}, instances=2)
    assert len(result.kills.killed) >= 2
    assert result.kills.back
    for name, found in result.outcomes.items():
        assert is_answered_once(found, result.counted[name]) == "yes"
    assert set(result.outcomes["neighbour"].status.tolist()) == {200}
    assert set(result.outcomes["victim"].status.tolist()) <= {200, 500, 503}
