"""Figures as a person reads them."""

from math import isfinite

NOTHING = "–"


def size_text(size_bytes: int | None) -> str:
    """Bytes in the unit that leaves the fewest digits."""
    if size_bytes is None:
        return NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes} B"


def number_text(value: float | None) -> str:
    """Three digits that matter, never an exponent for what is neither tiny nor huge."""
    if value is None:
        return NOTHING
    if not isfinite(value):
        return "∞" if value > 0 else "–∞" if value < 0 else "NaN"
    if 999.5 <= abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times_text(ratio: float | None) -> str:
    """A ratio: `3.10×`, `12.4×`."""
    if ratio is None:
        return NOTHING
    return f"{ratio:.2f}×" if ratio < 9.995 else f"{ratio:.1f}×"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(text: str, length: int) -> str:
    """The text itself, or its first words with an ellipsis: never more than `length` characters."""
    if len(text) <= length:
        return text
    return text[:length].rpartition(" ")[0][: length - 1].rstrip(" ,;:.(") + "…"
