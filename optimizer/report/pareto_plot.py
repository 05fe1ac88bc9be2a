"""Every candidate by what it costs and what it loses: faster is further left, nearer to the original further up."""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.evidence import CandidateRecord, Evidence
from optimizer.evaluate.metrics import score_text
from optimizer.report.facts import drop_limit, judged_batches, loss, metric_name, milliseconds, pareto_front
from optimizer.report.figures import number_text
from optimizer.report.markup import Html, element
from optimizer.report.scale import Scale, broken, linear, logarithmic
from optimizer.report.value_plots import precision_class
from optimizer.search.tried import SOURCE

_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 26, 46
_SHAPES = {"chosen": "chosen", "accepted": "accepted"}


@dataclass(frozen=True, slots=True)
class _Point:
    record: CandidateRecord
    time: float
    loss: float


@dataclass(frozen=True, slots=True)
class _Frame:
    """The plot's area, and its scales."""

    width: int
    height: int
    times: Scale
    losses: Scale

    def x(self, time: float) -> float:
        return _LEFT + (self.width - _LEFT - _RIGHT) * self.times.place(time)

    def y(self, lost: float) -> float:
        return _TOP + (self.height - _TOP - _BOTTOM) * self.losses.place(lost)


def pareto_plot(evidence: Evidence, width: int, height: int) -> Html | None:
    """Draw it; None where fewer than two candidates have both figures."""
    points = _points(evidence)
    if len(points) < 2:
        return None
    limit = drop_limit(evidence)
    frame = _Frame(
        width, height, logarithmic([point.time for point in points]), _losses([point.loss for point in points], limit)
    )
    parts = [*_axes(evidence, frame), *_limit(evidence, frame, limit), _front(frame, points)]
    ordered = sorted(points, key=lambda point: (point.record.verdict == "chosen", bool(point.record.latency)))
    parts += [_marker(evidence, frame, point) for point in ordered]
    parts += [
        _name(frame, point) for point in ordered if point.record.verdict == "chosen" or point.record.name == SOURCE
    ]
    return element(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        class_="plot",
        role="img",
        aria_label="accuracy drop against latency of all candidates",
    )


def _points(evidence: Evidence) -> list[_Point]:
    found = ((record, milliseconds(evidence, record), loss(record)) for record in evidence.candidates)
    return [
        _Point(record, time, lost)
        for record, time, lost in found
        if time is not None and lost is not None and lost < float("inf")
    ]


def _losses(values: Sequence[float], limit: float | None) -> Scale:
    """Room for the tolerance and its name first; what lost far more shares a compressed strip below."""
    low, high = min(0.0, *values), max(*values, limit or 0.0)
    cut = 3 * limit if limit else high
    is_whole = high <= 1.5 * cut
    room = max(high if is_whole else cut, 1e-9) - low
    if is_whole:
        return linear(low - 0.06 * room, low + 1.08 * room)
    return broken(low - 0.06 * room, cut, high * 1.3)


def _axes(evidence: Evidence, frame: _Frame) -> list[Html]:
    bottom, right = frame.height - _BOTTOM, frame.width - _RIGHT
    parts = []
    for tick in frame.losses.ticks:
        y = frame.y(tick)
        parts.append(element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        text = score_text(metric_name(evidence) or "", tick)
        parts.append(element("text", text.replace(".00%", "%"), x=_LEFT - 8, y=y + 4, class_="tick end"))
    if frame.losses.cut is not None:
        y = frame.y(frame.losses.cut)
        parts.append(element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid strong"))
        parts.append(element("text", "compressed from here on", x=right - 6, y=y - 6, class_="tick end over"))
    for tick in frame.times.ticks:
        x = frame.x(tick)
        parts.append(element("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="grid"))
        parts.append(element("text", number_text(tick), x=x, y=bottom + 18, class_="tick middle"))
    batches = judged_batches(evidence)
    about = f"batch {batches[0]}" if len(batches) == 1 else f"geometric mean of batch {batches[0]} to {batches[-1]}"
    parts.append(element("text", f"latency, ms ({about})", x=right, y=frame.height - 8, class_="axis end"))
    lost = f"{metric_name(evidence)} drop" if metric_name(evidence) else "largest difference"
    parts.append(element("text", f"{lost}, less is higher", x=4, y=12, class_="axis"))
    return parts


def _limit(evidence: Evidence, frame: _Frame, limit: float | None) -> list[Html]:
    if limit is None:
        return []
    y, bottom, right = frame.y(limit), frame.height - _BOTTOM, frame.width - _RIGHT
    text = f"max drop {score_text(metric_name(evidence) or '', limit)}"
    return [
        element("rect", x=_LEFT, y=y, width=right - _LEFT, height=max(0.0, bottom - y), class_="beyond"),
        element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="limit"),
        element("text", text, x=right - 6, y=y + 15, class_="limit-name end"),
    ]


def _front(frame: _Frame, points: Sequence[_Point]) -> Html:
    """A staircase: between two of its points nothing is both faster and better."""
    front = pareto_front([(point.time, point.loss) for point in points])
    path = f"M{frame.x(front[0][0]):.1f} {frame.y(front[0][1]):.1f}"
    for time, lost in front[1:]:
        path += f"H{frame.x(time):.1f}V{frame.y(lost):.1f}"
    return element("path", d=path, class_="front")


def _marker(evidence: Evidence, frame: _Frame, point: _Point) -> Html:
    x, y = frame.x(point.time), frame.y(point.loss)
    title = element("title", _tooltip(evidence, point))
    kind = "source" if point.record.name == SOURCE else _SHAPES.get(point.record.verdict, "rejected")
    classes = f"mark {kind} {precision_class(point.record.precision)}"
    radius = 6.0 if point.record.latency else 4.0
    if kind == "source":
        return element("rect", title, x=x - 5.5, y=y - 5.5, width=11, height=11, class_=classes)
    if kind == "chosen":
        halo = element("circle", cx=x, cy=y, r=13, class_="halo")
        return element("g", halo, element("circle", title, cx=x, cy=y, r=8, class_=classes))
    return element("circle", title, cx=x, cy=y, r=radius, class_=classes)


def _name(frame: _Frame, point: _Point) -> Html:
    """Names of candidates are long; theirs are in the tooltips and the table."""
    x, y = frame.x(point.time), frame.y(point.loss)
    is_right = x > frame.width * 0.6
    place = {"x": x + (-18 if is_right else 18), "y": y + 4}
    text = "source" if point.record.name == SOURCE else "chosen"
    return element("text", text, class_="name end" if is_right else "name", **place)


def _tooltip(evidence: Evidence, point: _Point) -> str:
    record = point.record
    lost = score_text(metric_name(evidence) or "", point.loss)
    measured = "" if record.latency else " (measured briefly, in the search)"
    return f"{record.name}: {number_text(point.time)} ms{measured}, drop {lost}, {record.verdict}: {record.reason}"


def legend(records: Sequence[CandidateRecord]) -> Html:
    """What colours and shapes mean."""
    used = dict.fromkeys(record.precision for record in records if record.verdict not in ("failed", "declined"))
    colours = [
        element("span", element("i", class_=f"swatch {precision_class(precision)}"), precision) for precision in used
    ]
    shapes = [
        element("span", element("i", class_=f"shape {kind}"), text)
        for kind, text in (("is-chosen", "chosen"), ("is-accepted", "accepted"), ("is-rejected", "rejected"))
    ]
    return element("p", *colours, *shapes, class_="legend")
