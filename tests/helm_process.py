"""Helm on one chart: reads a question in JSON, answers in JSON, in a process of its own.

Helm is a Go library, and Go's runtime takes over the signals of the process that loads it: a later write to a socket
that its peer has left then ends that process with a segmentation fault, where Python would have ignored the signal.
"""

import json
import sys
from pathlib import Path
from typing import Any

import helm_python

CHART = Path(__file__).parent.parent / "helm" / "enginehouse"


def answer(question: str, values: dict[str, Any] | None) -> dict[str, Any]:
    """Ask for `lint` or `render`; what Helm refuses comes back under `refused`."""
    try:
        if question == "lint":
            return helm_python.lint(CHART, values, strict=True)
        with helm_python.Chart.load(CHART) as chart:
            chart.validate_schema(values)
            return chart.render(values, name="demo", namespace="serving")
    except helm_python.HelmError as problem:
        return {"refused": str(problem)}


if __name__ == "__main__":
    json.dump(answer(**json.load(sys.stdin)), sys.stdout)
