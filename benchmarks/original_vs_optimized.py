"""The README's first table: what a build measured of the original model and of what it published.

    python -m benchmarks.original_vs_optimized [--repository model_repo] [MODEL ...]

Every figure is read from `evidence.json`, which the build wrote: latencies interleaved with the original, medians over
the rounds, accuracy on the test split, which is scored once, after the choice.
"""

import argparse
from pathlib import Path

from enginehouse.evidence import CandidateRecord, Evidence, read_evidence
from enginehouse.repository import Repository


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="models of the repository; all if none is given")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"), help="where the models were published")
    arguments = parser.parse_args()
    repository = Repository(arguments.repository)
    print("| model | engine | size | batch 1 p50 / p99 | batch 32 rows/s | speed-up (95 % bound) | test accuracy |")
    print("|---|---|---:|---:|---:|---:|---:|")
    hardware = set()
    for name in arguments.models or repository.model_names():
        evidence = read_evidence(repository.version_directory(name, repository.versions(name)[-1]))
        if evidence is not None:
            hardware.add(f"{evidence.hardware}; {evidence.threads} threads; {evidence.created_at[:10]}")
            print("\n".join(rows_from_evidence(evidence)))
    print("\n" + "; ".join(sorted(hardware)))


def rows_from_evidence(evidence: Evidence) -> list[str]:
    """One row for the original, and one for the published engine if it is another."""
    by_name = {candidate.name: candidate for candidate in evidence.candidates}
    source = by_name["source"]
    test = evidence.test
    rows = [_row(evidence.model, source, test.source if test else None)]
    if evidence.chosen != "source":
        rows.append(_row("", by_name[evidence.chosen], test.chosen if test else None))
    return rows


def _row(model: str, candidate: CandidateRecord, accuracy: float | None) -> str:
    by_batch = {point.batch: point for point in candidate.latency}
    one, largest = by_batch[1], by_batch[max(by_batch)]
    speed = f"{candidate.speedup.median:.2f}x (≥ {candidate.speedup.lower_95:.2f}x)" if candidate.speedup else "–"
    name = "original" if candidate.name == "source" else candidate.precision.upper()
    cells = [
        model,
        name,
        f"{(candidate.size_bytes or 0) / 1000:.0f} kB",
        f"{one.median_ms * 1000:.0f} / {one.p99_ms * 1000:.0f} µs",
        f"{largest.batch / largest.median_ms * 1000:,.0f}",
        "–" if candidate.name == "source" else speed,
        "–" if accuracy is None else f"{accuracy:.2%}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
