"""How much a model may lose: `--max-drop 1%`."""

from dataclasses import dataclass
from math import isfinite

from enginehouse.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The largest drop that is accepted.

    A percent of a share (top1, agreement) is percentage points: 1% of top1 is 0.01. Anything else has a scale of its
    own, so there a percent is of the original's score. A plain number is taken as it is.
    """

    value: float
    is_percent: bool

    def limit(self, source_score: float, is_share: bool) -> float:
        """The largest drop in units of the metric."""
        return self.value * abs(source_score) if self.is_percent and not is_share else self.value

    def __str__(self) -> str:
        return f"{self.value * 100:g}%" if self.is_percent else f"{self.value:g}"


def tolerance_from_text(text: str) -> Tolerance:
    """Read `1%` or `0.01`; raises `InvalidInput` for anything else."""
    is_percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise InvalidInput(f"max-drop is '{text}'; expected a percent such as 1%, or a number such as 0.01.")
    return Tolerance(value / 100 if is_percent else value, is_percent)
