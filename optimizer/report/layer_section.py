"""The published engine layer by layer: what each computes in, what that costs and saves, and why."""

from collections import Counter
from collections.abc import Sequence
from math import log

from enginehouse.evidence import Evidence, LayerRecord
from optimizer.report.figures import number_text, plural
from optimizer.report.markup import Html, element, html_table, number_cell, section
from optimizer.report.value_plots import bar_cell, chip, layer_stripe, precision_class


def layer_section(evidence: Evidence) -> Html:
    """The stripe and the table; nothing where no layer is recorded."""
    layers = evidence.layers
    if not layers:
        return Html("")
    counts = Counter(layer.precision for layer in layers)
    legend = [
        element("span", element("i", class_=f"swatch {precision_class(precision)}"), f"{precision}: {count}")
        for precision, count in counts.most_common()
    ]
    headings = ("#", "layer", "operator", "precision", "sensitivity", "ms in source", "saved ms", "why")
    return section(
        "layers",
        f"{plural(len(layers), 'layer')} of the published engine",
        element("p", *legend, class_="legend"),
        layer_stripe(layers),
        element(
            "p",
            "From input to output, as wide as the time each takes in the source. Sensitivity: squared error of the "
            "model's outputs over their squared length, when that layer alone is lowered.",
            class_="note",
        ),
        html_table(headings, _rows(layers), "sortable layers"),
    )


def _rows(layers: Sequence[LayerRecord]) -> list[list[str]]:
    known = [layer.sensitivity for layer in layers if layer.sensitivity]
    time = max((layer.time_ms or 0.0 for layer in layers), default=0.0)
    return [
        [
            number_cell(str(number), number),
            element("td", layer.name, class_="path"),
            layer.operator,
            element("td", chip(layer.precision)),
            bar_cell(layer.sensitivity, _height(layer.sensitivity, known), number_text(layer.sensitivity)),
            bar_cell(layer.time_ms, _share(layer.time_ms, time), number_text(layer.time_ms)),
            bar_cell(layer.saved_ms, _share(layer.saved_ms, time), number_text(layer.saved_ms)),
            element("td", layer.reason, class_="why"),
        ]
        for number, layer in enumerate(layers, 1)
    ]


def _share(value: float | None, largest: float) -> float:
    return value / largest if value and largest else 0.0


def _height(sensitivity: float | None, known: Sequence[float]) -> float:
    """Sensitivities lie powers of ten apart: from the least, which has a short bar, to the greatest."""
    if not sensitivity:
        return 0.0
    low, high = log(min(known)), log(max(known))
    return 0.1 + 0.9 * (log(sensitivity) - low) / (high - low) if high > low else 1.0
