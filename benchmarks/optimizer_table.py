"""What the optimizer makes of trained models and of real architectures: latency beside the source, and what it chose.

    python -m benchmarks.optimizer_table [MODEL ...] [--engines onnxruntime auto] [--budget 5m]

Each line is one `python -m optimizer build`. Latencies are medians over rounds interleaved with the source in ONNX
Runtime, on the same threads. The last three models have random weights: they decide speed only. Binding: no engine is
slower than its source, and every tolerance is met; the last column says so, or what is wrong.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.built import SOURCE, Built, build_subject, caption, point
from benchmarks.subjects import NAMES, Subject, subject_named
from enginehouse.evidence import CandidateRecord, MetricRecord
from optimizer.evaluate.metrics import SHARES
from optimizer.evaluate.tolerance import tolerance_from_text

BATCHES = (1, 8)
_NOT_SLOWER = 0.97
_HEAD = (
    "| model | --engine | source 1 | built 1 | ratio | source 8 | built 8 | ratio | metric | chosen | size | build |"
    " verdict |"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all if none is given: {', '.join(NAMES)}")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "auto"], help="onnxruntime, openvino, auto")
    parser.add_argument("--budget", help="how long each search may take, such as 5m")
    given = parser.parse_args()
    if strangers := set(given.models) - set(NAMES):
        parser.error(f"{', '.join(sorted(strangers))}: expected some of {', '.join(NAMES)}")
    print(f"{_HEAD}\n|---|---|---:|---:|---:|---:|---:|---:|---|---|---:|---:|---|")
    done = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.models or NAMES:
            for engine in given.engines:
                built = build_subject(subject_named(name, Path(folder)), engine=engine, budget=given.budget)
                done.append(built)
                print(row(built, engine), flush=True)
    print(f"\n{caption(done)}")


def row(built: Built, engine: str) -> str:
    """One line of the table."""
    cells = [built.subject.name, engine, *figures(built), f"{built.seconds:.0f} s", verdict(built)]
    return f"| {' | '.join(cells)} |"


def figures(built: Built) -> Iterator[str]:
    """Latencies and ratios, the metric, what was chosen and its size."""
    record = built.chosen
    for batch in BATCHES:
        measured = point(record, batch) if record is not None else None
        if measured is None:
            yield from ("–",) * 3
            continue
        yield f"{measured.source_median_ms:.3f} ms"
        yield f"{measured.median_ms:.3f} ms"
        yield f"{measured.source_median_ms / measured.median_ms:.2f}x"
    yield metric_text(record.metric if record else None)
    yield chosen_text(record)
    yield f"{(record.size_bytes or 0) / 1e6:.2f} MB" if record else "–"


def metric_text(metric: MetricRecord | None) -> str:
    return "–" if metric is None else f"{metric.name} {metric.source:.4f} to {metric.candidate:.4f}"


def chosen_text(record: CandidateRecord | None) -> str:
    """The engine and its trial in words."""
    if record is None:
        return "–"
    return SOURCE if record.name == SOURCE else f"{record.engine}: {record.name}"


def verdict(built: Built) -> str:
    """`holds`, or which of the two promises is broken."""
    record = built.chosen
    if record is None:
        return f"refused: {' '.join(built.refusal.replace('|', '/').split())}"
    broken = []
    for batch in BATCHES:
        measured = point(record, batch)
        if measured is not None and measured.source_median_ms < _NOT_SLOWER * measured.median_ms:
            broken.append(f"slower than its source at batch {batch}")
    if record.metric is not None and record.metric.drop > allowed_drop(built.subject, record.metric):
        broken.append("outside its tolerance")
    return "; ".join(broken) or "holds"


def allowed_drop(subject: Subject, metric: MetricRecord) -> float:
    return tolerance_from_text(subject.max_drop).limit(metric.source, metric.name in SHARES)


if __name__ == "__main__":
    main()
