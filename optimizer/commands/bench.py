"""`bench A [B …]`: medians per batch size, all engines measured side by side in shuffled rounds."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.errors import InvalidInput
from enginehouse.hardware import this_hardware, threads_per_instance
from optimizer.commands.rows import open_rows
from optimizer.commands.subject import Subject, check_same_interface, find_subject, opened
from optimizer.evaluate.benchmark import BATCH_SIZES, SOURCE, Benchmark, Schedule, benchmark
from optimizer.report.figures import NOTHING, number_text, times_text


def bench_models(
    models: Sequence[str],
    repository: Path,
    data: str | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    seconds: float = 1.0,
    seed: int = 0,
) -> RenderableType:
    """Measure one model, or several against the first.

    Args:
        models: files, version directories or `NAME[/VERSION]`.
        repository: where names are looked up.
        data: rows to run; seeded ones without it.
        batch_sizes: at least one; only 1 is measured where a model has no open batch axis.
        seconds: for each batch size, shared by all models.
        seed: of the seeded rows and the shuffles.

    Raises:
        InvalidInput: models that cannot be fed the same rows.
        NotFound: no such model.
        EngineFailed: a model cannot run one of the batch sizes.
    """
    if not models or not batch_sizes or min(batch_sizes) < 1:
        raise InvalidInput("bench takes at least one model, and batch sizes of at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        subjects = [find_subject(text, repository, workdir) for text in models]
        with opened(subjects) as engines:
            check_same_interface(subjects, engines)
            rows = open_rows(data, engines, seed, workdir)
            sizes = rows.batch_sizes(batch_sizes)
            named = dict(zip(engine_names(len(engines)), engines, strict=True))
            measured = benchmark(named, {size: rows.feeds(size) for size in sizes}, Schedule(sizes, seconds, seed))
    about = f"{measured.rounds} rounds, {threads_per_instance(1)} threads, {rows}; {this_hardware()}"
    return Group(latency_table(subjects, measured), Text(about, style="dim"))


def engine_names(count: int) -> list[str]:
    """Names for a benchmark, which wants its reference to be called `source`."""
    return [SOURCE, *(f"model {number}" for number in range(2, count + 1))]


def latency_table(subjects: Sequence[Subject], measured: Benchmark) -> Table:
    """Median milliseconds per batch size; behind each model but the first how many times as fast it is."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("model", overflow="fold")
    for size in measured.batch_sizes:
        table.add_column(f"ms at {size}", justify="right", no_wrap=True)
    table.add_column("rows/s", justify="right", no_wrap=True)
    table.add_column("as fast (95 %)", justify="right", no_wrap=True)
    for subject, name in zip(subjects, engine_names(len(subjects)), strict=True):
        points = measured.latency(name)
        best = max(1e3 * point.batch / point.median_ms for point in points)
        medians = [number_text(point.median_ms) for point in points]
        table.add_row(Text(subject.label), *medians, number_text(best), _speed_text(measured, name))
    return table


def _speed_text(measured: Benchmark, name: str) -> str:
    if name == SOURCE:
        return NOTHING
    speed = measured.speedup(name)
    return f"{times_text(speed.median)} (≥ {times_text(speed.lower_95)})"
