"""`verify A B`: is B, whoever made it, as right as A on these rows?"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from optimizer.commands.rows import open_rows
from optimizer.commands.subject import Subject, check_same_interface, find_subject, opened
from optimizer.evaluate.metrics import score_text
from optimizer.evaluate.reference import Reference
from optimizer.evaluate.tolerance import tolerance_from_text
from optimizer.evaluate.verify import Judge, Verification
from optimizer.report.figures import NOTHING, number_text


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What to print, and whether the candidate is inside the tolerance."""

    report: RenderableType
    is_accepted: bool


def verify_models(
    original: str,
    candidate: str,
    repository: Path,
    data: str | None = None,
    metric: str | None = None,
    max_drop: str = "1%",
    allow_batch_variance: bool = False,
    seed: int = 0,
) -> VerifyReport:
    """Judge one model by another, with the rule that a build goes by.

    Args:
        original: what is right: a file, a version directory or `NAME[/VERSION]`.
        candidate: what is judged.
        repository: where names are looked up.
        data: rows to judge by; without them the outputs for seeded rows must be equal up to rounding.
        metric: as for a build.
        max_drop: as for a build.
        allow_batch_variance: accept a row that changes with its company.
        seed: of the seeded rows and the resampling.

    Raises:
        InvalidInput: models that cannot be fed the same rows, or rows that cannot judge.
        NotFound: no such model.
        VerifyFailed: the original cannot be compared with.
    """
    tolerance = tolerance_from_text(max_drop)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        subjects = [find_subject(text, repository, workdir) for text in (original, candidate)]
        with opened(subjects) as engines:
            check_same_interface(subjects, engines)
            rows = open_rows(data, engines, seed, workdir)
            judge = Judge(
                rows.metric(metric, engines[0].outputs), tolerance, rows.is_batched, seed, allow_batch_variance
            )
            reference = Reference(engines[0], rows.batches, judge, workdir)
            found = reference.verify(engines[1], subjects[1].precision)
    return VerifyReport(_report(subjects, str(rows), found, max_drop), found.is_accepted)


def _report(subjects: list[Subject], rows: str, found: Verification, max_drop: str) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    for title, text in (
        ("original", f"{subjects[0].name} ({subjects[0]})"),
        ("candidate", f"{subjects[1].name} ({subjects[1]})"),
        ("rows", rows),
        *_figures(found, max_drop),
    ):
        table.add_row(title, Text(text))
    if found.is_accepted:
        return Group(table, Text("accepted", "bold green"))
    return Group(table, Text(f"{'failed' if found.has_failed else 'rejected'}: {found.reason}", "bold red"))


def _figures(found: Verification, max_drop: str) -> list[tuple[str, str]]:
    lines = []
    if found.metric is not None:
        record = found.metric
        name = record.name
        lines.append((name, f"{score_text(name, record.source)} → {score_text(name, record.candidate)}"))
        drop, upper = score_text(name, record.drop), score_text(name, record.drop_upper_95)
        lines.append(("drop", f"{drop} (≤ {upper} at 95 %, p {record.p_value:.2g}); {max_drop} is allowed"))
    for output, difference in found.output_difference.items():
        lines.append((f"output {output}", f"differs by up to {number_text(difference)}"))
    if found.worst is not None:
        lines.append(("worst row", f"{found.worst.row}, by {number_text(found.worst.difference)}"))
    if found.invariance is not None:
        company = number_text(found.invariance.difference) if found.invariance.difference else NOTHING
        lines.append(("in company", f"a row differs by up to {company}"))
    return lines
