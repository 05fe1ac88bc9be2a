"""Every precision forced on every trained model: what it costs in accuracy, what it gives, or why it cannot be.

    python -m benchmarks.precision_table [MODEL ...] [--precisions fp32 fp16 bf16 int8 int4] [--engine auto]

Each line is one `python -m optimizer build --precision X`. A precision that is refused is asked for once more with
`--objective size`, and marked "smaller, not faster" where that is published; otherwise a note below the table says why
it cannot be. The share is that of the computing layers that run in the precision, as the engine itself says. Metric and
drop are those of the validation rows; the test split is scored once, after the choice. The speed-up is the geometric
mean over batches of 1 to 32.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from benchmarks.built import Built, build_subject, caption, point
from benchmarks.subjects import TRAINED, subject_named
from enginehouse.evidence import CandidateRecord, Evidence

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int4")
_HEAD = "| model | precision | engine | share | metric | drop | test | size | batch 1 | speed-up | verdict |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all if none is given: {', '.join(TRAINED)}")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--engine", default="auto", help="auto, onnxruntime or openvino")
    parser.add_argument("--budget", help="how long each search may take, such as 2m")
    given = parser.parse_args()
    if strangers := set(given.models) - set(TRAINED):
        parser.error(f"{', '.join(sorted(strangers))}: expected some of {', '.join(TRAINED)}")
    print(f"{_HEAD}\n|---|---|---|---:|---|---:|---:|---:|---:|---:|---|")
    done, notes = [], list[str]()
    for name in given.models or TRAINED:
        for precision in given.precisions:
            built, verdict = forced(name, precision, given.engine, given.budget)
            done.append(built)
            if built.evidence is None:
                notes.append(f"{len(notes) + 1}. {name}, {precision}: {verdict}")
                verdict = f"cannot be: {len(notes)}"
            print(row(built, precision, verdict), flush=True)
    print("\n".join(("", *notes, "", caption(done))))


def forced(name: str, precision: str, engine: str, budget: str | None) -> tuple[Built, str]:
    """Build with one precision; if it is refused, ask whether it is at least smaller, and keep the first refusal."""
    subject = subject_named(name, Path())
    built = build_subject(subject, precision=precision, engine=engine, budget=budget)
    if built.evidence is not None:
        return built, "inside its tolerance" if is_rewritten(built) else "the source itself"
    smaller = build_subject(subject, precision=precision, engine=engine, budget=budget, objective="size")
    if smaller.evidence is not None and is_rewritten(smaller):
        return smaller, "inside its tolerance; smaller, not faster"
    return built, " ".join(built.refusal.split())


def is_rewritten(built: Built) -> bool:
    return built.chosen is not None and built.chosen.stage != "source"


def row(built: Built, precision: str, verdict: str) -> str:
    """One line of the table; a refusal has no figures."""
    cells = [built.subject.name, precision, *figures(built, precision), verdict]
    return f"| {' | '.join(cells)} |"


def figures(built: Built, precision: str) -> Iterator[str]:
    """Engine, share of the precision, metric, drop, test score, size, latency and speed-up."""
    record = built.chosen
    if built.evidence is None or record is None:
        yield from ("–",) * 8
        return
    test = built.evidence.test
    yield record.engine
    yield share_of(built.evidence, precision)
    yield metric_of(record, test.metric if test else "–")
    yield f"{record.metric.drop * 100:.2f}" if record.metric else "–"
    yield f"{test.source:.2%} to {test.chosen:.2%}" if test else "–"
    yield f"{(record.size_bytes or 0) / 1000:.0f} kB"
    measured = point(record, 1)
    yield f"{measured.median_ms * 1000:.0f} µs" if measured else "–"
    yield f"{record.speedup.median:.2f}x" if record.speedup else "–"


def share_of(evidence: Evidence, precision: str) -> str:
    """How many of the computing layers run in the precision; dynamic integers are integers."""
    proof = next((engine.proof for engine in evidence.engines if engine.candidate == evidence.chosen), None)
    if proof is None:
        return "–"
    kinds = ("int8", "int8_dynamic") if precision == "int8" else (precision,)
    return f"{sum(proof.layer_share.get(kind, 0.0) for kind in kinds):.0%}"


def metric_of(record: CandidateRecord, fallback: str) -> str:
    if record.metric is None:
        return fallback
    return f"{record.metric.name} {record.metric.source:.2%} to {record.metric.candidate:.2%}"


if __name__ == "__main__":
    main()
