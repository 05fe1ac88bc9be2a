"""`compare A B`: how two models differ in structure, size, answers and speed."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.dtype import Array
from enginehouse.engine import Engine
from optimizer.commands.bench import engine_names, latency_table
from optimizer.commands.rows import Rows, open_rows
from optimizer.commands.subject import Subject, check_same_interface, find_subject, opened
from optimizer.evaluate.benchmark import Schedule, benchmark
from optimizer.evaluate.comparison import Comparison
from optimizer.evaluate.metrics import Metric, score_text
from optimizer.report.figures import NOTHING, number_text, size_text

_BATCH_SIZES = (1, 8)
_MOST_OPERATORS = 24


def compare_models(
    first: str,
    second: str,
    repository: Path,
    data: str | None = None,
    metric: str | None = None,
    seconds: float = 1.0,
    seed: int = 0,
) -> RenderableType:
    """Lay two models side by side; a difference is no fault here.

    Args:
        first: a file, a version directory or `NAME[/VERSION]`.
        second: the other.
        repository: where names are looked up.
        data: rows to run and, with labels, to score; seeded ones without it.
        metric: as for a build.
        seconds: to measure each batch size.
        seed: of the seeded rows and the shuffles.

    Raises:
        InvalidInput: models that cannot be fed the same rows, or rows that do not fit.
        NotFound: no such model.
        EngineFailed: one of them cannot run.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        subjects = [find_subject(text, repository, workdir) for text in (first, second)]
        with opened(subjects) as engines:
            check_same_interface(subjects, engines)
            rows = open_rows(data, engines, seed, workdir)
            sizes = rows.batch_sizes(_BATCH_SIZES)
            answers = _answers_table(engines, rows, rows.metric(metric, engines[0].outputs), seed)
            named = dict(zip(engine_names(2), engines, strict=True))
            measured = benchmark(named, {size: rows.feeds(size) for size in sizes}, Schedule(sizes, seconds, seed))
    return Group(_structure_table(subjects), "", answers, "", latency_table(subjects, measured))


def _structure_table(subjects: Sequence[Subject]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("structure")
    for subject in subjects:
        table.add_column(Text(subject.label), justify="right", overflow="fold")
    rows = [("engine", [str(subject) for subject in subjects])]
    rows.append(("size", [size_text(subject.size_bytes) for subject in subjects]))
    graphs = [subject.graph for subject in subjects]
    rows.append(("nodes", [NOTHING if graph is None else f"{graph.node_count:,}" for graph in graphs]))
    rows.append(("parameters", [NOTHING if graph is None else f"{graph.parameter_count:,}" for graph in graphs]))
    rows.append(("opset", [NOTHING if graph is None else str(graph.opset) for graph in graphs]))
    for title, texts in (*rows, *_operator_rows(subjects)):
        table.add_row(Text(title), *map(Text, texts))
    return table


def _operator_rows(subjects: Sequence[Subject]) -> list[tuple[str, list[str]]]:
    """Operators of which one has more than the other, the largest differences first."""
    if any(subject.graph is None for subject in subjects):
        return []
    one, other = (subject.graph.op_counts() if subject.graph else {} for subject in subjects)
    differing = [name for name in dict.fromkeys((*one, *other)) if one.get(name, 0) != other.get(name, 0)]
    differing.sort(key=lambda name: (-abs(one.get(name, 0) - other.get(name, 0)), name))
    rows = [(f"  {name}", [str(one.get(name, 0)), str(other.get(name, 0))]) for name in differing[:_MOST_OPERATORS]]
    left_out = len(differing) - len(rows)
    return [*rows, (f"  {left_out} more operators", ["", ""])] if left_out else rows


def _answers_table(engines: Sequence[Engine], rows: Rows, metric: Metric | None, seed: int) -> Table:
    comparison = Comparison(metric, {spec.name: 1.0 for spec in engines[0].outputs})
    scores = []
    for batch in rows.batches():
        expected = engines[0].run(batch.feeds)
        comparison.add(batch, expected, engines[1].run(batch.feeds))
        if metric is not None:
            scores.append(metric.scores(expected, expected, batch))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column(f"answers to {rows}")
    table.add_column("", overflow="fold")
    for title, text in (*_metric_lines(comparison, metric, scores, seed), *_difference_lines(comparison)):
        table.add_row(Text(title), Text(text))
    return table


def _metric_lines(
    comparison: Comparison, metric: Metric | None, scores: Sequence[Array], seed: int
) -> list[tuple[str, str]]:
    if metric is None or not comparison.is_comparable:
        return []
    source, candidate = np.concatenate(scores), np.concatenate(comparison.scores)
    drop = metric.drop(source, candidate, seed)
    name = metric.name
    both = f"{score_text(name, metric.total(source))} → {score_text(name, metric.total(candidate))}"
    lost = f"drop {score_text(name, drop.point)}, below {score_text(name, drop.upper_95)} at 95 %, p {drop.p_value:.2g}"
    return [(name, both), ("", lost)]


def _difference_lines(comparison: Comparison) -> list[tuple[str, str]]:
    lines = [
        (f"output {name}", f"differs by up to {number_text(difference)}")
        for name, difference in comparison.distance.by_output.items()
    ]
    worst = comparison.worst.sample
    if worst is not None:
        lines.append(("worst row", f"{worst.row}, output {worst.output}, by {number_text(worst.difference)}"))
    return lines
