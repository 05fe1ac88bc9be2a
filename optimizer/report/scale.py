"""From values to places on a plot, and the round values that are written beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log, log10

_TOP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Scale:
    """One axis: `place` gives a share from 0 to 1, `ticks` are the values that are written, `cut` where it breaks."""

    place: Callable[[float], float]
    ticks: tuple[float, ...]
    cut: float | None = None


def logarithmic(values: Sequence[float], margin: float = 0.08) -> Scale:
    """Equal ratios take equal room; values must be positive."""
    low, high = log(min(values)), log(max(values))
    room = max(high - low, 0.2)
    low, high = low - margin * room, high + margin * room
    return Scale(
        lambda value: (log(value) - low) / (high - low), _log_ticks(10 ** (low / log(10)), 10 ** (high / log(10)))
    )


def linear(low: float, high: float, count: int = 4) -> Scale:
    """Equal differences take equal room."""
    room = (high - low) or 1.0
    return Scale(lambda value: (value - low) / room, _linear_ticks(low, low + room, count))


def broken(low: float, cut: float, high: float) -> Scale:
    """Linear up to a cut, logarithmic beyond it, where what is merely bad needs to be told from what is ruined."""
    if high <= cut:
        return linear(low, cut)
    share = 1 - _TOP_SHARE

    def place(value: float) -> float:
        if value <= cut:
            return share * (value - low) / (cut - low)
        return share + _TOP_SHARE * log(value / cut) / log(high / cut)

    beyond = tuple(tick for tick in _log_ticks(cut, high) if tick > 1.5 * cut)
    return Scale(place, _linear_ticks(low, cut, 4) + beyond, cut)


def _linear_ticks(low: float, high: float, count: int) -> tuple[float, ...]:
    step = 10 ** floor(log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= count)
    return tuple(number * step for number in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """The 1 of each power of ten, and as many more as it takes to have three."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(number / 10 for number in range(10, 100, 2))):
        ticks = tuple(
            factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high
        )
        if len(ticks) >= 3:
            return ticks
    return ticks
