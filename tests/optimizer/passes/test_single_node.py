import numpy as np
import onnx
import pytest

from enginehouse.dtype import Array
from enginehouse.errors import EngineFailed, InvalidInput
from optimizer.passes.single_node import output_bytes, run_node


def test_size_is_known_before_the_result() -> None:
    node = onnx.helper.make_node("Expand", ["one", "shape"], ["y"])
    feeds: dict[str, Array] = {"one": np.ones(1, np.float32), "shape": np.array([1 << 20, 1 << 20], np.int64)}
    assert output_bytes(node, feeds, 20) == 4 << 40


def test_size_that_depends_on_content_is_unknown() -> None:
    node = onnx.helper.make_node("NonZero", ["x"], ["y"])
    assert output_bytes(node, {"x": np.ones(3, np.float32)}, 20) is None


def test_node_is_computed() -> None:
    node = onnx.helper.make_node("Split", ["x"], ["a", "b"], num_outputs=2)
    results = run_node(node, {"x": np.arange(4, dtype=np.int64)}, 20)
    assert {name: array.tolist() for name, array in results.items()} == {"a": [0, 1], "b": [2, 3]}


def test_contradiction_is_an_error_of_ours() -> None:
    node = onnx.helper.make_node("Add", ["x", "z"], ["y"])
    with pytest.raises(InvalidInput, match="Add contradicts its inputs"):
        output_bytes(node, {"x": np.ones(3, np.float32), "z": np.ones(2, np.float32)}, 20)


def test_failure_is_an_error_of_ours() -> None:
    node = onnx.helper.make_node("Gather", ["x", "i"], ["y"])
    with pytest.raises(EngineFailed):
        run_node(node, {"x": np.ones(3, np.float32), "i": np.array(9, np.int64)}, 20)
