"""A metric of the user's own: `--metric path.py:function`.

`function(outputs, labels)` gets the outputs of a batch by name, and its labels or None, and returns one score per row;
higher is better. It runs in this process: it is the user's file, named by the user.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors
from optimizer.data.feeds import Batch


def is_metric_function(name: str) -> bool:
    """Tell whether `--metric` names a function."""
    file, _, function = name.rpartition(":")
    return file.endswith(".py") and function.isidentifier()


def load_metric_function(name: str) -> Callable[[Tensors, Tensors, Batch], Array]:
    """Import it, and check what it returns whenever it is called.

    Raises:
        InvalidInput: no such file or function, or the file cannot be imported; later also what the function raises,
            and scores that are not one number per row.
    """
    function = _function(name)

    def score(outputs: Tensors, _: Tensors, batch: Batch) -> Array:
        try:
            scores = np.asarray(function(dict(outputs), batch.labels), dtype=np.float64)
        except (Exception, SystemExit) as problem:
            raise InvalidInput(
                f"metric {name} failed on a batch of {batch.rows} rows: {type(problem).__name__}: {problem}"
            ) from problem
        if scores.shape != (batch.rows,):
            raise InvalidInput(
                f"metric {name} returned scores of shape {list(scores.shape)} for {batch.rows} rows; expected one "
                f"number per row, shape [{batch.rows}]."
            )
        return scores

    return score


def _function(name: str) -> Callable[..., Any]:
    file, _, function = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InvalidInput(f"metric file {file} does not exist; expected path.py:function.")
    spec = importlib.util.spec_from_file_location(f"metric_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as problem:
        raise InvalidInput(f"metric file {file} cannot be imported: {type(problem).__name__}: {problem}") from problem
    found: object = getattr(module, function, None)
    if not callable(found):
        raise InvalidInput(f"metric file {file} has no function '{function}'; expected path.py:function.")
    return found
