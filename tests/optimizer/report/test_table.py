from collections.abc import Callable

from rich.console import Console

from enginehouse.evidence import CandidateRecord, Evidence, LatencyPoint, MetricRecord
from optimizer.report.table import candidate_table, shown_candidates

WIDTH = 100
EvidenceMaker = Callable[..., Evidence]


def point(batch: int, median_ms: float) -> LatencyPoint:
    return LatencyPoint(batch=batch, median_ms=median_ms, p99_ms=1, source_median_ms=1, rounds=8)


METRIC = MetricRecord(
    name="top1", rows=314, source=0.9904, candidate=0.9841, drop=0.0063, drop_upper_95=0.0167, p_value=0.25
)
RECORDS = (
    CandidateRecord(
        name="source",
        precision="fp32",
        size_bytes=516_017,
        latency=(point(1, 0.0747), point(8, 0.255)),
        verdict="accepted",
        reason="the original",
    ),
    CandidateRecord(
        name="int8",
        precision="int8",
        size_bytes=142_000,
        metric=METRIC,
        latency=(point(1, 0.0427), point(8, 1234.5)),
        verdict="chosen",
        reason="fastest: 1.81x (≥ 1.80x)",
    ),
    CandidateRecord(name="fp16", precision="fp16", verdict="declined", reason="a reason that needs more than one line"),
)


def printed(*records: CandidateRecord) -> str:
    console = Console(width=WIDTH, record=True, file=None, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(candidate_table(records))
    return capture.get()


def test_every_candidate_has_its_row() -> None:
    text = printed(*RECORDS)
    source, int8 = (next(line for line in text.splitlines() if line.startswith(name)) for name in ("source", "int8"))
    assert source.split()[1:5] == ["516", "kB", "99.04%", "–"]
    assert source.split()[5:8] == ["0.0747", "0.255", "reference:"]
    assert "98.41%  0.63% (≤ 1.67%)" in int8
    assert "chosen: fastest" in int8


def test_a_long_reason_is_cut_unless_it_is_that_of_the_choice() -> None:
    long = " ".join(f"because{number}" for number in range(20))
    declined, chosen = (
        RECORDS[2].model_copy(update={"verdict": verdict, "reason": long}) for verdict in ("declined", "chosen")
    )
    assert "because5…" in printed(declined)
    assert "because6" not in printed(declined)
    assert "because19" in printed(chosen)


def test_it_fits_100_columns_and_breaks_only_the_reason() -> None:
    lines = printed(*RECORDS).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[0].split()[:3] == ["candidate", "size", "top1"]


def test_without_a_metric_the_difference_is_shown() -> None:
    record = RECORDS[1].model_copy(update={"metric": None, "max_abs_difference": 1.2e-6})
    text = printed(record)
    assert "difference" in text.splitlines()[0]
    assert "1.2e-06" in text


def test_a_narrow_terminal_loses_no_letter_of_a_reason() -> None:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(candidate_table(RECORDS))
    assert "reference" in capture.get()
    assert "…" not in capture.get()


def test_a_long_search_shows_the_finalists_and_the_best_of_each_engine_and_precision(
    evidence_with: EvidenceMaker,
) -> None:
    candidates = evidence_with(trials=40).candidates
    shown = shown_candidates(candidates)
    assert {record.name for record in candidates if record.latency} <= {record.name for record in shown}
    kinds = {(record.engine, record.precision) for record in candidates}
    assert {(record.engine, record.precision) for record in shown} == kinds
    dynamic = [record for record in candidates if (record.engine, record.precision) == ("onnxruntime", "int8_dynamic")]
    fastest = max(
        (record for record in dynamic if record.verdict == "accepted"), key=lambda one: one.quick_speedup or 0
    )
    assert [record for record in shown if record in dynamic] == [fastest]


def test_what_is_left_out_is_counted(evidence_with: EvidenceMaker) -> None:
    candidates = evidence_with(trials=40).candidates
    left_out = len(candidates) - len(shown_candidates(candidates))
    text = printed(*candidates)
    assert f"{left_out} more trials in evidence.json" in text
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "more trial" not in printed(*candidates[:12])
