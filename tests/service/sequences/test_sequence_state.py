"""Random lives of sequences: none ever sees the state of another."""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from enginehouse.errors import Cancelled, DeadlineExceeded, EngineFailed
from enginehouse.tensor import Tensors
from service.request import Admitted, InferResponse
from tests.service.conftest import Bench
from tests.service.sequence_bench import (
    OLDEST,
    accumulate,
    config,
    make_accumulator,
    step,
)

_ASK = st.tuples(
    st.just("ask"),
    st.integers(1, 4),
    st.sampled_from(["", "", "", "", "s", "e"]),
    st.sampled_from([False] * 9 + [True]),
)
_RUN = st.tuples(st.just("run"), st.integers(1, 4))
_CANCEL = st.tuples(st.just("cancel"), st.integers(0, 40))
_WAIT = st.tuples(st.just("wait"), st.sampled_from([0.02, 0.2, 1.5]))
_EVENTS = st.lists(st.one_of(*[_ASK] * 8, _RUN, _RUN, _CANCEL, _WAIT), min_size=20, max_size=50)
_STARTS = [("ask", number, "s", False) for number in (1, 2, 3, 4)]


def _run_callbacks(one: Bench, count: int) -> None:
    """Let a few things happen and no more: what comes next meets a server that is in the middle of it all."""
    ready = one.clock._ready
    for _ in range(min(count, len(ready))):
        callback, arguments = ready.popleft()
        callback(*arguments)


def _fail_at(failing: set[int]) -> Callable[[Tensors], Tensors]:
    runs = 0

    def compute(feeds: Tensors) -> Tensors:
        nonlocal runs
        runs += 1
        if runs in failing:
            raise RuntimeError("boom")
        return accumulate(feeds)

    return compute


@given(
    events=_EVENTS,
    strategy=st.sampled_from(["direct { }", OLDEST, "oldest { }"]),
    instances=st.integers(1, 2),
    failing=st.sets(st.integers(1, 30), max_size=8),
)
def test_sequences_never_interleave_state(
    events: Sequence[tuple[Any, ...]], strategy: str, instances: int, failing: set[int]
) -> None:
    """However starts, ends, cancels, deadlines, pauses and failures mix: everybody is answered exactly once, and a sum
    holds its own sequence's numbers, from its start on, all of them but those that were answered with a failure.
    """
    text = config(strategy, rows=2, instances=instances, rest="max_sequence_idle_microseconds: 1000000")
    one = make_accumulator(text)
    for engine in one.engines:
        engine._function = _fail_at(failing)
    admitted: list[Admitted | None] = []
    lives: list[list[int]] = []
    current: dict[int, int] = {}
    for kind, *arguments in [*_STARTS, *events]:
        if kind == "ask":
            sequence, flags, is_short = arguments
            number = len(admitted)
            parameters = {"timeout": 100_000} if is_short else {}
            admitted.append(one.ask(str(number), step(sequence, number + 1, flags, parameters=parameters)))
            if admitted[-1] is not None:
                if "s" in flags:
                    current[sequence] = len(lives)
                    lives.append([])
                lives[current[sequence]].append(number)
        elif kind == "run":
            _run_callbacks(one, arguments[0])
        elif kind == "wait":
            one.clock.advance(arguments[0])
        elif arguments[0] < len(admitted) and admitted[arguments[0]] is not None:
            admitted[arguments[0]].cancel()
    one.clock.advance(10)
    assert [len(one.answers.of[str(number)]) for number in range(len(admitted))] == [1] * len(admitted)
    for life in lives:
        _check_life(one, life)
    assert one.model.queue_depth == 0
    one.model.close()


def _check_life(one: Bench, life: list[int]) -> None:
    total, is_broken = 0, False
    for number in life:
        (answer,) = one.answers.of[str(number)]
        if isinstance(answer, InferResponse):
            assert not is_broken
            total += number + 1
            assert one.answers.values(str(number)) == [total]
        else:
            assert isinstance(answer, Cancelled | DeadlineExceeded) or "boom" in str(answer)
            is_broken = is_broken or not isinstance(answer, EngineFailed)
