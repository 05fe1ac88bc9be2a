"""The table that a build ends with: every candidate, what it weighs, what it loses, how fast it is, and the verdict.

Latencies are medians in milliseconds, at batch 1 and 8. A drop stands with the bound it stays below at 95 %.
"""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.evidence import CandidateRecord, Evidence, LatencyPoint, MetricRecord, TestScore
from optimizer.evaluate.metrics import score_text
from optimizer.search.tried import SOURCE

_STYLE = {"chosen": "bold green", "accepted": "", "rejected": "red", "failed": "red", "declined": "dim"}
_SHOWN_BATCHES = (1, 8)
_NOTHING = "–"


def candidate_table(candidates: Sequence[CandidateRecord]) -> RenderableType:
    """Lay the candidates out for a terminal of 100 columns; on a narrower one the reasons break inside words."""
    measured = next((record.metric for record in candidates if record.metric), None)
    title = measured.name if measured else "difference"
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("candidate", no_wrap=True)
    for heading in ("size", title, "drop (95 %)", *(f"ms at {size}" for size in _SHOWN_BATCHES)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("why", ratio=1, overflow="fold")
    for record in candidates:
        table.add_row(*map(Text, _cells(record, measured)), style=_STYLE[record.verdict])
    return table


def outcome_lines(evidence: Evidence) -> list[Text]:
    """Say what was chosen and why, and what the test split says about it."""
    lines = [Text(f"chosen {evidence.chosen}: {evidence.reason}.")]
    if evidence.test is not None:
        lines.append(_test_line(evidence.chosen, evidence.test))
    return lines


def size_text(size_bytes: int | None) -> str:
    """Bytes in the unit that leaves the fewest digits."""
    if size_bytes is None:
        return _NOTHING
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes} B"


def _cells(record: CandidateRecord, measured: MetricRecord | None) -> list[str]:
    latencies = [_latency_text(record.latency, size) for size in _SHOWN_BATCHES]
    return [
        record.name,
        size_text(record.size_bytes),
        _metric_text(record, measured),
        _drop_text(record.metric),
        *latencies,
        "reference" if _is_reference(record) else record.verdict,
        record.reason,
    ]


def _test_line(chosen: str, test: TestScore) -> Text:
    scores = f"source {score_text(test.metric, test.source)}"
    if chosen != SOURCE:
        scores += f", {chosen} {score_text(test.metric, test.chosen)}"
    return Text(f"test {test.metric}: {scores} ({test.rows} rows, scored once)")


def _is_reference(record: CandidateRecord) -> bool:
    return record.name == SOURCE and record.verdict != "chosen"


def _metric_text(record: CandidateRecord, measured: MetricRecord | None) -> str:
    if record.name == SOURCE and measured is not None:
        return score_text(measured.name, measured.source)
    if record.metric is not None:
        return score_text(record.metric.name, record.metric.candidate)
    return _NOTHING if record.max_abs_difference is None else f"{record.max_abs_difference:.2g}"


def _drop_text(metric: MetricRecord | None) -> str:
    if metric is None:
        return _NOTHING
    return f"{score_text(metric.name, metric.drop)} (≤ {score_text(metric.name, metric.drop_upper_95)})"


def _latency_text(latency: Sequence[LatencyPoint], batch: int) -> str:
    point = next((point for point in latency if point.batch == batch), None)
    return f"{point.median_ms:.3g}" if point else _NOTHING
