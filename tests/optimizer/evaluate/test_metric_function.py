from pathlib import Path

import numpy as np
import pytest

from enginehouse.errors import InvalidInput
from optimizer.data.feeds import Batch
from optimizer.evaluate.metric_function import is_metric_function, load_metric_function

ROWS = Batch({}, None, 2)


def scored(folder: Path, body: str) -> list[float]:
    path = folder / "own.py"
    path.write_text(f"def score(outputs, labels):\n    {body}\n")
    scores: list[float] = load_metric_function(f"{path}:score")({"y": np.arange(2.0)}, {}, ROWS).tolist()
    return scores


def test_a_name_is_a_function_when_it_says_so() -> None:
    assert is_metric_function("folder/own.py:score")
    assert not any(map(is_metric_function, ("top1", "own.py", "own.py:", "own:score", "own.py:two words")))


def test_it_gets_outputs_by_name_and_no_labels_where_there_are_none(tmp_path: Path) -> None:
    assert scored(tmp_path, "return outputs['y'] + (labels is None)") == [1.0, 2.0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return outputs['z']", r"failed on a batch of 2 rows: KeyError: 'z'"),
        ("raise SystemExit(3)", "failed on a batch of 2 rows: SystemExit: 3"),
        ("return 'high'", "failed on a batch of 2 rows: ValueError"),
        ("return 0.5", r"scores of shape \[\] for 2 rows; expected one number per row"),
        ("return [[1], [2]]", r"scores of shape \[2, 1\] for 2 rows"),
    ],
)
def test_what_it_does_wrong_is_one_sentence(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        scored(tmp_path, body)


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"does not exist; expected path\.py:function"):
        load_metric_function(f"{tmp_path / 'none.py'}:score")
    path = tmp_path / "own.py"
    path.write_text("import nothing_of_this_name\n")
    with pytest.raises(InvalidInput, match="cannot be imported: ModuleNotFoundError"):
        load_metric_function(f"{path}:score")
    path.write_text("score = 3\n")
    with pytest.raises(InvalidInput, match="has no function 'score'"):
        load_metric_function(f"{path}:score")
