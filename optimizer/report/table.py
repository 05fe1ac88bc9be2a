"""The table that a build ends with: what each candidate weighs, what it loses, how fast it is, and the verdict.

Latencies are medians in milliseconds, at batch 1 and 8. A drop stands with the bound it stays below at 95 %. Of a long
search only the finalists and the best of each engine and precision are shown; all of them are in the evidence.
"""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.evidence import EVIDENCE_FILE, CandidateRecord, Evidence, LatencyPoint, MetricRecord, TestScore
from optimizer.evaluate.metrics import score_text
from optimizer.report.figures import NOTHING, number_text, plural, shortened, size_text
from optimizer.search.tried import SOURCE

_STYLE = {"chosen": "bold green", "accepted": "", "rejected": "red", "failed": "red", "declined": "dim"}
_SHOWN_BATCHES = (1, 8)
_NAME_WIDTH = 22
# Why something was not chosen is told in a line or two; the evidence has it whole.
_REASON_LENGTH = 60

# As many as are read without effort; with more, the table is a choice of them.
_SHOWN_AT_MOST = 12
_RANK = ("chosen", "accepted", "rejected", "failed", "declined")


def candidate_table(candidates: Sequence[CandidateRecord]) -> RenderableType:
    """Lay the candidates out for a terminal of 100 columns; on a narrower one the verdicts break inside words."""
    measured = next((record.metric for record in candidates if record.metric), None)
    title = measured.name if measured else "difference"
    shown = shown_candidates(candidates)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("candidate", max_width=_NAME_WIDTH, overflow="fold")
    for heading in ("size", title, "drop (95 %)", *(f"ms at {size}" for size in _SHOWN_BATCHES)):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", ratio=1, overflow="fold")
    for record in shown:
        table.add_row(*map(Text, _cells(record, measured)), style=_STYLE[record.verdict])
    left_out = len(candidates) - len(shown)
    if not left_out:
        return table
    return Group(table, Text(f"{plural(left_out, 'more trial')} in {EVIDENCE_FILE}", style="dim"))


def shown_candidates(candidates: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """All of a short list; of a long one the source, the finalists, and the best of each engine and precision."""
    if len(candidates) <= _SHOWN_AT_MOST:
        return list(candidates)
    best: dict[tuple[str, str], CandidateRecord] = {}
    for record in sorted(candidates, key=_rank):
        best.setdefault((record.engine, record.precision), record)
    kept = {id(record) for record in best.values()}
    return [
        record
        for record in candidates
        if record.name == SOURCE or record.verdict == "chosen" or record.latency or id(record) in kept
    ]


def outcome_lines(evidence: Evidence) -> list[Text]:
    """Say what was chosen and why, and what the test split says about it."""
    lines = [Text(f"chosen {evidence.chosen}: {evidence.reason}.")]
    if evidence.test is not None:
        lines.append(_test_line(evidence.chosen, evidence.test))
    return lines


def _rank(record: CandidateRecord) -> tuple[int, float]:
    return _RANK.index(record.verdict), -(record.quick_speedup or 0.0)


def _cells(record: CandidateRecord, measured: MetricRecord | None) -> list[str]:
    latencies = [_latency_text(record.latency, size) for size in _SHOWN_BATCHES]
    return [
        record.name,
        size_text(record.size_bytes),
        _metric_text(record, measured),
        _drop_text(record.metric),
        *latencies,
        _verdict_text(record),
    ]


def _test_line(chosen: str, test: TestScore) -> Text:
    scores = f"source {score_text(test.metric, test.source)}"
    if chosen != SOURCE:
        scores += f", {chosen} {score_text(test.metric, test.chosen)}"
    return Text(f"test {test.metric}: {scores} ({test.rows} rows, scored once)")


def _verdict_text(record: CandidateRecord) -> str:
    if record.verdict == "chosen":
        return f"chosen: {record.reason}"
    word = "reference" if record.name == SOURCE else record.verdict
    return f"{word}: {shortened(record.reason, _REASON_LENGTH)}"


def _metric_text(record: CandidateRecord, measured: MetricRecord | None) -> str:
    if record.name == SOURCE and measured is not None:
        return score_text(measured.name, measured.source)
    if record.metric is not None:
        return score_text(record.metric.name, record.metric.candidate)
    return number_text(record.max_abs_difference)


def _drop_text(metric: MetricRecord | None) -> str:
    if metric is None:
        return NOTHING
    return f"{score_text(metric.name, metric.drop)} (≤ {score_text(metric.name, metric.drop_upper_95)})"


def _latency_text(latency: Sequence[LatencyPoint], batch: int) -> str:
    point = next((point for point in latency if point.batch == batch), None)
    return number_text(point.median_ms) if point else NOTHING
