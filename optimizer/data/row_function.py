"""Run a user's row function in a process of its own; its rows arrive as files of bounded size.

The function is the user's code: it may crash, print, or import anything, and none of that reaches this process.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec


def is_row_function(argument: str) -> bool:
    """Tell whether `--data` names a function, as `path.py:function`."""
    file, _, function = argument.rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def write_rows(argument: str, inputs: Sequence[TensorSpec], batch_axis_open: bool, folder: Path) -> None:
    """Call the function and write what it yields into `folder`, as numbered `.npz` files.

    Raises:
        InvalidInput: no such file or function, or the function failed (its own last words are quoted), or it yielded
            nothing.
    """
    file, _, function = argument.rpartition(":")
    if not Path(file).is_file():
        raise InvalidInput(f"data file {file} does not exist; expected path.py:function.")
    folder.mkdir()
    ranks = {spec.name: len(spec.shape) + (not batch_axis_open) for spec in inputs}
    command = [sys.executable, "-m", "optimizer.data.row_writer", file, function, str(folder), json.dumps(ranks)]
    # The pipe to its standard input closes when this process ends, however it ends; the writer then stops too.
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        last = ""
        try:
            for line in process.stdout:
                last = line.strip() or last
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise InvalidInput(f"the data function {argument} failed: {last or f'exit status {process.returncode}'}")
    if next(folder.iterdir(), None) is None:
        raise InvalidInput(f"the function {argument} yielded no rows; at least one is expected.")
