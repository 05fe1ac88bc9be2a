import io

import pytest
from rich.console import Console

from optimizer.report.steps import Steps


def test_a_step_leaves_one_plain_line() -> None:
    file = io.StringIO()
    with Steps(Console(file=file, width=100)).step("verify") as step:
        step.advance(3, 10)
        step.note = "inside the tolerance: fp32"
    (line,) = file.getvalue().splitlines()
    assert line.startswith("verify ")
    assert line.endswith(" s  inside the tolerance: fp32")


def test_a_terminal_sees_a_bar_that_goes_away() -> None:
    file = io.StringIO()
    with Steps(Console(file=file, width=100, force_terminal=True)).step("verify") as step:
        step.advance(1, 2)
        step.note = "done"
    assert "━" in file.getvalue()
    assert file.getvalue().splitlines()[-1].endswith("done")


def test_a_step_that_fails_leaves_no_line() -> None:
    file = io.StringIO()
    with pytest.raises(KeyError), Steps(Console(file=file)).step("verify"):
        raise KeyError
    assert file.getvalue() == ""


def test_paths_in_brackets_are_not_markup() -> None:
    file = io.StringIO()
    with Steps(Console(file=file, width=100)).step("data") as step:
        step.note = "data[old].npz"
    assert "data[old].npz" in file.getvalue()
