"""The batch-latency curve, and what follows from it: rows per second at each batch size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from enginehouse.evidence import CandidateRecord, Evidence, LatencyPoint
from optimizer.report.figures import number_text
from optimizer.report.markup import Html, element
from optimizer.report.scale import Scale, logarithmic
from optimizer.search.tried import SOURCE

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 26, 46
_MOST_LINES = 5


@dataclass(frozen=True, slots=True)
class Quantity:
    """What is drawn over the batch size; the tail is what one run in a hundred takes."""

    title: str
    of_point: Callable[[LatencyPoint], float]
    tail: Callable[[LatencyPoint], float] | None = None


LATENCY = Quantity(
    "ms per batch: median, and faint the 99th percentile", lambda point: point.median_ms, lambda point: point.p99_ms
)
THROUGHPUT = Quantity("rows per second", lambda point: 1e3 * point.batch / point.median_ms)


@dataclass(frozen=True, slots=True)
class _Frame:
    width: int
    height: int
    batches: Scale
    values: Scale

    def x(self, batch: int) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT) * self.batches.place(batch)

    def y(self, value: float) -> float:
        return self.height - _BOTTOM - (self.height - _TOP - _BOTTOM) * self.values.place(value)


def curves(evidence: Evidence) -> dict[str, CandidateRecord]:
    """What is drawn, by the class of its line: the chosen engine, the source, and the fastest others."""
    measured = {record.name: record for record in evidence.candidates if record.latency}
    first = {"chosen": evidence.chosen, "source": SOURCE if evidence.chosen != SOURCE else ""}
    shown = {line: measured[name] for line, name in first.items() if name in measured}
    others = [record for name, record in measured.items() if name not in first.values()]
    others.sort(key=lambda record: record.latency[-1].median_ms)
    return shown | {f"other-{number}": record for number, record in enumerate(others[: _MOST_LINES - len(shown)], 1)}


def latency_plot(evidence: Evidence, quantity: Quantity, width: int, height: int) -> Html | None:
    """Draw the curves; None where nothing was measured at two batch sizes."""
    shown = curves(evidence)
    points = [point for record in shown.values() for point in record.latency]
    batches = sorted({point.batch for point in points})
    if len(batches) < 2:
        return None
    values = [quantity.of_point(point) for point in points]
    values += [quantity.tail(point) for point in points] if quantity.tail else []
    frame = _Frame(width, height, logarithmic(batches, 0.04), logarithmic(values, 0.04))
    parts = [*_axes(frame, quantity, batches), *_lines(frame, quantity, shown)]
    label = f"{quantity.title}, over the batch size"
    return element("svg", *parts, viewBox=f"0 0 {width} {height}", class_="plot", role="img", aria_label=label)


def line_legend(shown: Mapping[str, CandidateRecord]) -> Html:
    """Which line is whose."""
    items = [
        element("span", element("i", class_=f"stroke {line}"), record.name if line != "source" else "source")
        for line, record in shown.items()
    ]
    return element("p", *items, class_="legend")


def _axes(frame: _Frame, quantity: Quantity, batches: Sequence[int]) -> list[Html]:
    bottom, right = frame.height - _BOTTOM, frame.width - _RIGHT
    parts = [element("text", quantity.title, x=4, y=12, class_="axis")]
    for tick in frame.values.ticks:
        y = frame.y(tick)
        parts.append(element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", number_text(tick), x=_LEFT - 8, y=y + 4, class_="tick end"))
    parts += [element("text", str(batch), x=frame.x(batch), y=bottom + 18, class_="tick middle") for batch in batches]
    parts.append(element("text", "batch size", x=right, y=frame.height - 8, class_="axis end"))
    return parts


def _lines(frame: _Frame, quantity: Quantity, shown: Mapping[str, CandidateRecord]) -> list[Html]:
    """The chosen engine's last, so that it lies above the others."""
    parts = []
    for line, record in sorted(shown.items(), key=lambda item: item[0] == "chosen"):
        if quantity.tail is not None and line in ("chosen", "source"):
            parts.append(element("path", d=_path(frame, record, quantity.tail), class_=f"line tail {line}"))
        parts.append(element("path", d=_path(frame, record, quantity.of_point), class_=f"line {line}"))
        parts += [_dot(frame, quantity, line, record, point) for point in record.latency]
    return parts


def _path(frame: _Frame, record: CandidateRecord, of_point: Callable[[LatencyPoint], float]) -> str:
    places = [f"{frame.x(point.batch):.1f} {frame.y(of_point(point)):.1f}" for point in record.latency]
    return "M" + "L".join(places)


def _dot(frame: _Frame, quantity: Quantity, line: str, record: CandidateRecord, point: LatencyPoint) -> Html:
    text = f"{record.name}, batch {point.batch}: {number_text(point.median_ms)} ms, 99 % below "
    text += f"{number_text(point.p99_ms)} ms, {number_text(THROUGHPUT.of_point(point))} rows/s"
    x, y = frame.x(point.batch), frame.y(quantity.of_point(point))
    return element(
        "circle", element("title", text), cx=x, cy=y, r=4.5 if line == "chosen" else 3.5, class_=f"dot {line}"
    )
