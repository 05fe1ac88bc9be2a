"""What was tried: the plot of all candidates, what more tolerance would buy, the curves, and the table."""

from collections import Counter

from enginehouse.evidence import CandidateRecord, Evidence
from optimizer.evaluate.metrics import SHARES, score_text
from optimizer.report.facts import STEPS, Offer, metric_name, milliseconds, offers
from optimizer.report.figures import number_text, plural, size_text, times_text
from optimizer.report.latency_plot import LATENCY, THROUGHPUT, curves, latency_plot, line_legend
from optimizer.report.markup import Html, element, html_table, joined, number_cell, section
from optimizer.report.pareto_plot import legend, pareto_plot
from optimizer.report.value_plots import chip
from optimizer.search.tried import SOURCE

_ORDER = ("chosen", "accepted", "rejected", "failed", "declined")


def trade_section(evidence: Evidence) -> Html:
    """Accuracy against speed, over all candidates."""
    wide, narrow = pareto_plot(evidence, 960, 440), pareto_plot(evidence, 360, 340)
    if wide is None or narrow is None:
        return section("trade", "Accuracy against speed", element("p", "Nothing was measured here.", class_="note"))
    return section(
        "trade",
        "Accuracy against speed",
        legend(evidence.candidates),
        element("div", both_widths(wide, narrow), class_="card"),
        element("p", _plot_note(evidence), class_="note"),
        _price(evidence),
    )


def speed_section(evidence: Evidence) -> Html:
    """The curves, and the figures behind them."""
    shown = curves(evidence)
    plots = []
    for quantity in (LATENCY, THROUGHPUT):
        wide, narrow = latency_plot(evidence, quantity, 470, 320), latency_plot(evidence, quantity, 360, 280)
        if wide is not None and narrow is not None:
            plots.append(element("div", both_widths(wide, narrow), class_="card"))
    if not shown:
        return Html("")
    rows = [
        (
            record.name,
            number_cell(str(point.batch), point.batch),
            number_cell(number_text(point.median_ms), point.median_ms),
            number_cell(number_text(point.p99_ms), point.p99_ms),
            number_cell(number_text(point.source_median_ms), point.source_median_ms),
            number_cell(times_text(point.source_median_ms / point.median_ms), point.source_median_ms / point.median_ms),
            number_cell(number_text(THROUGHPUT.of_point(point)), THROUGHPUT.of_point(point)),
        )
        for record in shown.values()
        for point in record.latency
    ]
    headings = ("candidate", "batch", "median ms", "p99 ms", "source ms", "faster", "rows/s")
    figures = element("details", element("summary", "All figures"), html_table(headings, rows, "sortable"))
    return section(
        "speed", "Speed by batch size", line_legend(shown), element("div", *plots, class_="pair-of"), figures
    )


def candidates_section(evidence: Evidence) -> Html:
    """Every candidate with its verdict, the best first."""
    counts: Counter[str] = Counter(record.verdict for record in evidence.candidates)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in _ORDER if counts[verdict])
    ordered = sorted(
        evidence.candidates,
        key=lambda record: (_ORDER.index(record.verdict), milliseconds(evidence, record) or float("inf")),
    )
    headings = ("candidate", "precision", "verdict", "drop", "bound", "ms", "faster", "size", "why", "engine", "stage")
    return section(
        "trials",
        f"All {plural(len(evidence.candidates), 'candidate')}",
        element("p", told, class_="note"),
        html_table(headings, [_row(evidence, record) for record in ordered], "sortable trials"),
    )


def both_widths(wide: Html, narrow: Html) -> Html:
    """The same plot drawn twice; the style sheet shows the one that fits."""
    return joined([element("div", wide, class_="wide"), element("div", narrow, class_="narrow")])


def _plot_note(evidence: Evidence) -> str:
    has_quick = any(record.quick_speedup and not record.latency for record in evidence.candidates)
    note = "Each mark is a candidate: rest the pointer on it. The line joins those that no other beats in both."
    return note + (" Small marks were timed briefly beside the source, in the search." if has_quick else "")


def _price(evidence: Evidence) -> Html:
    """What the next steps of tolerance would buy."""
    if metric_name(evidence) is None:
        return Html("")
    found = offers(evidence)
    title = element("h3", "What more tolerance would buy")
    lines = [_offer(evidence, offer) for offer in found]
    if not found or found[0].step > STEPS[0]:
        unit = "" if metric_name(evidence) in SHARES else " of the original's error"
        least = f" would buy nothing: no candidate with a drop of up to {STEPS[0] * 100:g} % more is faster."
        lines.insert(0, element("li", element("strong", f"+{STEPS[0] * 100:g} %{unit}"), least))
    return joined([title, element("ul", *lines, class_="offers")])


def _offer(evidence: Evidence, offer: Offer) -> Html:
    metric = metric_name(evidence) or ""
    unit = "" if metric in SHARES else " of the original's error"
    drop = offer.candidate.metric.drop if offer.candidate.metric else 0.0
    return element(
        "li",
        element("strong", f"+{offer.step * 100:g} %{unit}"),
        f" would buy {times_text(offer.gain)} the speed of now: {offer.candidate.name}, "
        f"with a drop of {score_text(metric, drop)}.",
    )


def _row(evidence: Evidence, record: CandidateRecord) -> list[str]:
    time = milliseconds(evidence, record)
    is_reference = record.name == SOURCE and record.verdict != "chosen"
    speed = record.speedup.median if record.speedup else record.quick_speedup
    metric = record.metric
    verdict = "reference" if is_reference else record.verdict
    return [
        record.name,
        element("td", chip(record.precision)),
        element("td", element("span", verdict, class_=f"verdict {verdict}")),
        number_cell(score_text(metric.name, metric.drop), metric.drop) if metric else _difference_cell(record),
        number_cell(f"≤ {score_text(metric.name, metric.drop_upper_95)}", metric.drop_upper_95) if metric else "",
        number_cell(number_text(time), time),
        number_cell(times_text(speed), speed),
        number_cell(size_text(record.size_bytes), record.size_bytes),
        element("td", record.reason, class_="why"),
        record.engine,
        record.stage,
    ]


def _difference_cell(record: CandidateRecord) -> Html:
    return number_cell(number_text(record.max_abs_difference), record.max_abs_difference)
