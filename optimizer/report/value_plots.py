"""Small drawings of values: a stripe of layers, a share by precision, a bar in a cell, two answers side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from enginehouse.evidence import LayerRecord, WorstSample
from optimizer.report.figures import number_text
from optimizer.report.markup import Html, element

_LEAST_NAMED_SHARE = 0.14
_PAIR_LEFT, _PAIR_TOP, _PAIR_BOTTOM = 56, 10, 24
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8_dynamic", "int4")


def precision_class(precision: str) -> str:
    """The class that carries a precision's colour."""
    return f"p-{precision}" if precision in PRECISIONS else "p-other"


def chip(precision: str) -> Html:
    return element("span", precision, class_=f"chip {precision_class(precision)}")


def layer_stripe(layers: Sequence[LayerRecord]) -> Html:
    """The network from input to output: one cell per layer, as wide as the time it takes, in its precision's colour."""
    times = [layer.time_ms or 0.0 for layer in layers]
    least = 0.15 * (sum(times) or len(layers)) / len(layers)
    widths = [max(time, least) if sum(times) else 1.0 for time in times]
    scale = 1000 / sum(widths)
    cells, x = [], 0.0
    for layer, width in zip(layers, widths, strict=True):
        time = "" if layer.time_ms is None else f", {number_text(layer.time_ms)} ms in the source"
        title = element("title", f"{layer.name} ({layer.operator}): {layer.precision}{time}. {layer.reason}")
        gap = min(1.0, 0.15 * width * scale)
        cells.append(
            element(
                "rect",
                title,
                x=x * scale,
                y=0,
                width=width * scale - gap,
                height=40,
                class_=precision_class(layer.precision),
            )
        )
        x += width
    return element(
        "svg",
        *cells,
        viewBox="0 0 1000 40",
        preserveAspectRatio="none",
        class_="stripe",
        role="img",
        aria_label="layers",
    )


def share_bar(shares: Mapping[str, float]) -> Html:
    """One bar, cut by precision; shares of nothing are left out."""
    parts = [
        element(
            "span",
            f"{precision} {share:.0%}" if share > _LEAST_NAMED_SHARE else "",
            class_=f"part {precision_class(precision)}",
            style=f"flex-grow:{share:.4f}",
            title=f"{precision} {share:.1%}",
        )
        for precision, share in sorted(shares.items(), key=lambda item: -item[1])
        if share > 0
    ]
    return element("div", *parts, class_="shares")


def bar_cell(value: float | None, share: float, text: str) -> Html:
    """A table cell with a bar that fills a share of it."""
    sorted_by = "" if value is None else f"{value:.9g}"
    bar = element("i", style=f"width:{100 * min(1.0, max(0.0, share)):.1f}%")
    return element("td", text, bar, class_="number bar", data_value=sorted_by)


@dataclass(frozen=True, slots=True)
class _Bars:
    """Where the values of a pair plot stand."""

    width: int
    height: int
    low: float
    high: float
    count: int

    def y(self, value: float) -> float:
        return _PAIR_TOP + (self.height - _PAIR_TOP - _PAIR_BOTTOM) * (self.high - value) / (
            (self.high - self.low) or 1
        )

    @property
    def step(self) -> float:
        return (self.width - _PAIR_LEFT - 10) / self.count

    def bar(self, index: int, place: int, value: float, kind: str, title: str) -> Html:
        """The first or second bar of a pair, place 0 or 1, between zero and its value."""
        thick = min(22.0, self.step * 0.38)
        x = _PAIR_LEFT + self.step * (index + 0.5) + (place - 1) * thick
        top, bottom = sorted((self.y(value), self.y(0.0)))
        return element(
            "rect", element("title", title), x=x, y=top, width=thick, height=bottom - top, class_=f"pair {kind}"
        )


def pair_plot(worst: WorstSample, width: int, height: int) -> Html:
    """Two bars for each value: what the original answered, and what the published engine did."""
    pairs = list(zip(worst.source, worst.built, strict=False))
    values = [value for value in (*worst.source, *worst.built, 0.0) if isfinite(value)]
    bars = _Bars(width, height, min(values), max(values), max(1, len(pairs)))
    parts = [element("line", x1=_PAIR_LEFT, x2=width - 10, y1=bars.y(0.0), y2=bars.y(0.0), class_="grid strong")]
    parts += [
        element("text", number_text(tick), x=_PAIR_LEFT - 8, y=bars.y(tick) + 4, class_="tick end")
        for tick in dict.fromkeys((bars.low, bars.high))
    ]
    for index, (source, built) in enumerate(pairs):
        title = f"value {index}: original {number_text(source)}, published {number_text(built)}"
        both = ((0, source, "source"), (1, built, "chosen"))
        parts += [bars.bar(index, place, value, kind, title) for place, value, kind in both if isfinite(value)]
        if bars.step > 24 or index % 4 == 0:
            x = _PAIR_LEFT + bars.step * (index + 0.5)
            parts.append(element("text", str(index), x=x, y=height - 6, class_="tick middle"))
    label = "the original's values beside those of the published engine"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", class_="plot", role="img", aria_label=label)
