import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.data.row_function import is_row_function, write_rows

X = TensorSpec("x", DTYPES["FP32"], (-1, 2))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("a.py:rows", True), ("/b/a.py:rows", True), ("a.npz", False), ("a.py", False), ("a.py:no-name", False)],
)
def test_a_function_is_told_from_a_file(argument: str, expected: bool) -> None:
    assert is_row_function(argument) is expected


def run(tmp_path: Path, body: str, name: str = "rows") -> None:
    (tmp_path / "user.py").write_text(f"def rows():\n    {body}\n")
    write_rows(f"{tmp_path / 'user.py'}:{name}", [X], True, tmp_path / "out")


def test_an_exception_of_the_user_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"user\.py:rows failed: KeyError: 'no such column'"):
        run(tmp_path, "raise KeyError('no such column')")


def test_a_crash_of_the_user_stays_in_its_process(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="failed: exit status"):
        run(tmp_path, "import os; os._exit(3)")


def test_a_function_that_yields_nothing_is_named_and_no_path_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"the function .*user\.py:rows yielded no rows") as caught:
        run(tmp_path, "return iter(())")
    assert str(tmp_path / "out") not in str(caught.value)


def test_a_missing_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no function 'other'"):
        run(tmp_path, "yield {}", name="other")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.py does not exist"):
        write_rows(f"{tmp_path}/none.py:rows", [X], True, tmp_path / "out")


def test_the_function_ends_with_the_build_that_called_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "user.py").write_text(
        f"def rows():\n    pipe = open({str(pipe)!r}, 'w')\n    print('started', file=pipe, flush=True)\n"
        "    while True:\n        yield {'x': [0.0, 0.0]}\n"
    )
    code = (
        "import sys; from pathlib import Path; from enginehouse.dtype import DTYPES; "
        "from enginehouse.tensor import TensorSpec; from optimizer.data.row_function import write_rows; "
        "write_rows(sys.argv[1], [TensorSpec('x', DTYPES['FP32'], (-1, 2))], True, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, f"{tmp_path / 'user.py'}:rows", str(tmp_path / "out")]
    with subprocess.Popen(command) as build, pipe.open() as messages:
        assert messages.readline() == "started\n"
        build.kill()
        # The pipe ends when the last process that can write to it does.
        readable, _, _ = select.select([messages], [], [], 30)
        assert readable
        assert messages.read() == ""
