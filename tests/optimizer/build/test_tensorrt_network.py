"""The shapes of a plan's inputs. The network itself is tested where the library is, see `test_tensorrt_plans.py`."""

import pytest
from onnx import TensorProto, helper

from enginehouse.errors import InvalidInput
from optimizer.build.tensorrt_network import observed_shapes, profile_shapes
from optimizer.graph.graph import Graph

BATCH = (1, 4, 16)


def graph_of(**inputs: list[str | int]) -> Graph:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    nodes = [helper.make_node("Identity", [next(iter(inputs))], ["y"])]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return Graph(helper.make_model(helper.make_graph(nodes, "g", values, [output])))


def test_an_open_batch_takes_the_batch_range() -> None:
    assert profile_shapes(graph_of(x=["n", 3]), BATCH, {}) == {"x": ((1, 3), (4, 3), (16, 3))}


def test_a_fixed_shape_stays_as_it_is() -> None:
    assert profile_shapes(graph_of(x=[2, 3], s=[]), BATCH, {}) == {
        "x": ((2, 3), (2, 3), (2, 3)),
        "s": ((), (), ()),
    }


def test_given_shapes_count() -> None:
    shapes = ((1, 8), (4, 128), (16, 512))
    assert profile_shapes(graph_of(x=["n", "length"]), BATCH, {"x": shapes}) == {"x": shapes}


def test_a_second_open_dimension_is_asked_for_with_an_example() -> None:
    with pytest.raises(InvalidInput, match=r"'x' is \[-1, -1\].*such as \[\(1, 1\), \(4, 128\), \(16, 512\)\]"):
        profile_shapes(graph_of(x=["n", "length"]), BATCH, {})


def test_shapes_of_an_input_that_is_not_there_are_refused() -> None:
    with pytest.raises(InvalidInput, match="given for 'z', which is no input of the model; it has x"):
        profile_shapes(graph_of(x=["n", 3]), BATCH, {"z": ((1,), (1,), (1,))})


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((1, 4), (2, 4), (3, 4)), r"the least shape of input 'x' is \[1, 4\]; the model takes \[-1, 3\]"),
        (((0, 3), (2, 3), (3, 3)), r"the least shape of input 'x' is \[0, 3\]"),
        (((1, 3), (5, 3), (4, 3)), "no dimension may shrink"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        profile_shapes(graph_of(x=["n", 3]), BATCH, {"x": shapes})  # type: ignore[dict-item]


def test_a_batch_range_that_shrinks_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no dimension may shrink"):
        profile_shapes(graph_of(x=["n", 3]), (4, 2, 8), {})


def test_bounds_of_open_dimensions_come_from_the_data_that_was_seen() -> None:
    graph = graph_of(x=["n", "length", 7], mask=["n", "length"], fixed=["n", 3])
    seen = [{"x": (2, length, 7), "mask": (2, length), "fixed": (2, 3)} for length in (40, 9, 11)]
    found = observed_shapes(graph, BATCH, seen)
    assert found == {
        "x": ((1, 9, 7), (4, 11, 7), (16, 40, 7)),
        "mask": ((1, 9), (4, 11), (16, 40)),
    }
    assert profile_shapes(graph, BATCH, found)["fixed"] == ((1, 3), (4, 3), (16, 3))


def test_a_fixed_batch_stays_fixed_beside_an_open_length() -> None:
    assert observed_shapes(graph_of(x=[2, "length"]), BATCH, [{"x": (2, 5)}]) == {"x": ((2, 5), (2, 5), (2, 5))}


def test_nothing_is_said_of_inputs_that_were_not_seen() -> None:
    assert observed_shapes(graph_of(x=["n", "length"]), BATCH, []) == {}
