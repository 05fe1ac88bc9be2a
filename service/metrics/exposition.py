"""The Prometheus text format, version 0.0.4, with every name as it is.

It is our own because the library's appends `_total` to every counter, and dashboards know the names without it.
"""

import math
from collections.abc import Iterable

from prometheus_client.core import Metric


def exposition_from_metrics(metrics: Iterable[Metric]) -> str:
    """Write families under exactly the names they have."""
    lines: list[str] = []
    for metric in metrics:
        # The library strips the ending of counters from the family's name; the text format wants the whole.
        name = metric.samples[0].name if metric.type == "counter" and metric.samples else metric.name
        lines.append(f"# HELP {name} {_escaped(metric.documentation)}")
        lines.append(f"# TYPE {name} {metric.type}")
        for sample in metric.samples:
            labels = ",".join(f'{key}="{_escaped(text, quotes=True)}"' for key, text in sample.labels.items())
            lines.append(f"{sample.name}{f'{{{labels}}}' if labels else ''} {spelled(sample.value)}")
    return "\n".join(lines) + "\n"


def spelled(value: float) -> str:
    """What is no number as the format spells it, whole numbers without a fraction."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(text: str, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text
