"""What the engine learned from data: repairs and their gains, calibration, and the row it answers worst."""

from enginehouse.evidence import CalibrationRecord, Evidence, RepairRecord, WorstSample
from optimizer.evaluate.metrics import score_text
from optimizer.report.facts import metric_name
from optimizer.report.figures import NOTHING, number_text, plural
from optimizer.report.markup import Html, element, html_table, number_cell, section
from optimizer.report.trial_sections import both_widths
from optimizer.report.value_plots import bar_cell, pair_plot


def repair_section(evidence: Evidence) -> Html:
    """Each rung of the ladder, before and after."""
    if not evidence.repairs:
        return Html("")
    metric = metric_name(evidence) or ""
    largest = max((abs(drop) for repair in evidence.repairs for drop in _drops(repair)), default=0.0)
    rows = [
        (
            repair.name.replace("_", " "),
            bar_cell(repair.drop_before, _share(repair.drop_before, largest), _drop_text(metric, repair.drop_before)),
            bar_cell(repair.drop_after, _share(repair.drop_after, largest), _drop_text(metric, repair.drop_after)),
            number_cell(_drop_text(metric, _gain(repair))),
            element("td", repair.detail, class_="why"),
        )
        for repair in evidence.repairs
    ]
    note = (
        "Repairs change the float weights so that they bear a lower precision; the ladder is climbed as far as needed."
    )
    headings = ("repair", "drop without", "drop with", "gain", "what it did")
    return section("repairs", "Repairs", element("p", note, class_="note"), html_table(headings, rows))


def calibration_section(evidence: Evidence) -> Html:
    """Where the ranges of INT8 come from."""
    calibration = evidence.calibration
    if calibration is None:
        return Html("")
    note = element("p", *_calibration_text(calibration), class_="note")
    if not calibration.ranges:
        return section("calibration", "Calibration", note)
    widest = max((max(abs(low), abs(high)) for low, high in calibration.ranges.values()), default=0.0)
    rows = [
        (
            element("td", name, class_="path"),
            number_cell(number_text(low), low),
            number_cell(number_text(high), high),
            _range_cell(low, high, widest),
        )
        for name, (low, high) in calibration.ranges.items()
    ]
    table = html_table(("tensor", "lowest", "highest", "range"), rows, "sortable")
    title = f"Ranges of {plural(len(rows), 'tensor')}"
    return section("calibration", "Calibration", note, element("details", element("summary", title), table))


def worst_section(evidence: Evidence) -> Html:
    """The validation row to look at first."""
    worst = evidence.worst
    if worst is None:
        return Html("")
    text = (
        f"Row {worst.row} of the judged rows, output '{worst.output}': it differs by up to "
        f"{number_text(worst.difference)}. Its first {plural(len(worst.source), 'value')}:"
    )
    legend = element(
        "p",
        element("span", element("i", class_="swatch pair source"), "original"),
        element("span", element("i", class_="swatch pair chosen"), "published engine"),
        class_="legend",
    )
    plots = both_widths(pair_plot(worst, 960, 240), pair_plot(worst, 360, 220))
    return section(
        "worst",
        "The row it answers least like the original",
        element("p", text, class_="note"),
        legend,
        element("div", plots, class_="card"),
        _values(worst),
    )


def _values(worst: WorstSample) -> Html:
    rows = [
        (
            number_cell(str(index), index),
            number_cell(f"{source:.6g}", source),
            number_cell(f"{built:.6g}", built),
            number_cell(f"{built - source:+.3g}", built - source),
        )
        for index, (source, built) in enumerate(zip(worst.source, worst.built, strict=False))
    ]
    table = html_table(("value", "original", "published", "difference"), rows, "sortable")
    return element("details", element("summary", "The values"), table)


def _share(drop: float | None, largest: float) -> float:
    return drop / largest if drop and largest else 0.0


def _drops(repair: RepairRecord) -> list[float]:
    return [drop for drop in (repair.drop_before, repair.drop_after) if drop is not None]


def _gain(repair: RepairRecord) -> float | None:
    drops = _drops(repair)
    return drops[0] - drops[1] if len(drops) == 2 else None


def _drop_text(metric: str, drop: float | None) -> str:
    return NOTHING if drop is None else score_text(metric, drop)


def _calibration_text(calibration: CalibrationRecord) -> list[str]:
    if not calibration.rows:
        return ["The published engine computes nothing in static INT8, so no rows were read for its ranges."]
    rows = f"{calibration.rows:,} of {plural(calibration.rows_available, 'row')} of the {calibration.split} split"
    if calibration.is_random:
        rows = plural(calibration.rows, "made-up row")
    ended = (
        "until the ranges grew no more" if calibration.has_converged else "all that there were; the ranges still grew"
    )
    used = ", ".join(f"{name} for {count}" for name, count in sorted(calibration.calibrators.items()))
    chosen = f" Ranges chosen by {used}." if used else ""
    return [f"{rows} were read, {ended}.{chosen}"]


def _range_cell(low: float, high: float, widest: float) -> Html:
    """The range on a line from the lowest to the highest of all."""
    if not widest:
        return element("td", "")
    left, width = 50 + 50 * low / widest, 50 * (high - low) / widest
    bar = element("i", style=f"left:{left:.1f}%;width:{max(width, 0.5):.1f}%")
    return element("td", element("span", bar, class_="range"))
