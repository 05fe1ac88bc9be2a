from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import Tensors
from optimizer.data.synthetic import synthetic_feeds
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph, load_graph
from optimizer.passes.rewrite_pass import PASSES, Rewritten
from optimizer.rewrite import rewrite

EXAMPLES = Path(__file__).parents[2] / "examples" / "digits"
HERE = f"{__name__}:"


def _graph() -> Graph:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    planted (float[N,3,8,8] x) => (float[N,4,6,6] y) {
        c = Conv(x, W)
        n = BatchNormalization(c, g, b, m, v)
        i = Identity(n)
        y = Relu(i)
    }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(3)
    shapes = {"W": (4, 3, 3, 3), **dict.fromkeys("gbmv", (4,))}
    for name, shape in shapes.items():
        array = random.uniform(0.5, 1.5, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return Graph(model)


def _feeds(graph: Graph, sizes: Sequence[int] = (1, 3)) -> list[Tensors]:
    return [synthetic_feeds(graph.inputs, rows, graph.batch_axis_open, seed=rows) for rows in sizes]


def _with_weight(graph: Graph, change: float) -> Graph:
    model = graph.copy()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "W")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(change), "W"))
    return Graph(model)


def wrong_numbers(graph: Graph) -> Rewritten:
    return Rewritten(_with_weight(graph, 1.01), changed=True)


def rounding(graph: Graph) -> Rewritten:
    return Rewritten(_with_weight(graph, 1 + 1e-6), changed=True)


def right_for_one_row_only(graph: Graph) -> Rewritten:
    """Expands to the shape that one row has: right for batch 1, a failure or a wrong shape beyond."""
    model = graph.copy()
    shape = numpy_helper.from_array(np.array([1, 4, 6, 6], np.int64), "shape")
    model.graph.initializer.append(shape)
    model.graph.node[-1].output[0] = "open"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["open", "shape"], ["y"]))
    return Rewritten(Graph(model), changed=True)


def renames_the_output(graph: Graph) -> Rewritten:
    model = graph.copy()
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"
    return Rewritten(Graph(model), changed=True)


def invalid_graph(graph: Graph) -> Rewritten:
    model = graph.copy()
    model.graph.node[0].input[0] = "nowhere"
    return Rewritten(Graph(model), changed=True)


def raises(graph: Graph) -> Rewritten:
    raise KeyError("a library's own mistake\nwith a long tail")


def exits(graph: Graph) -> Rewritten:
    raise SystemExit(3)


def declines(graph: Graph) -> Rewritten:
    return Rewritten(graph, False, tuple(Declined("is shared", f"Conv '{at}'") for at in range(5)))


def sharpens_the_output(graph: Graph) -> Rewritten:
    model = graph.copy()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    return Rewritten(Graph(model), changed=True)


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        ("wrong_numbers", "it changes the model on feed 0, with ONNX Runtime's optimizations off: output 'y' differs"),
        ("right_for_one_row_only", ""),
        ("renames_the_output", "the outputs became z FP32"),
        ("invalid_graph", "nowhere"),
        ("raises", "KeyError: \"a library's own mistake"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_wrong_pass_is_dropped_by_name_and_the_rest_goes_on(planted: str, reason: str) -> None:
    graph = _graph()
    passes = {
        "identity_elimination": PASSES["identity_elimination"],
        planted: HERE + planted,
        "batch_norm_into_conv": PASSES["batch_norm_into_conv"],
    }
    result, records = rewrite(graph, _feeds(graph), passes=passes)
    assert [(record.name, record.outcome) for record in records] == [
        ("identity_elimination", "kept"),
        (planted, "dropped"),
        ("batch_norm_into_conv", "kept"),
    ]
    assert reason in records[1].detail
    assert records[1].detail
    assert (records[1].nodes_before, records[1].nodes_after) == (3, 3)
    assert result.op_counts() == {"Conv": 1, "Relu": 1}


def test_missing_pass_is_dropped_by_name() -> None:
    graph = _graph()
    _, (record,) = rewrite(graph, _feeds(graph), passes={"gone": "optimizer.passes.gone:gone"})
    assert record.outcome == "dropped"
    assert "ModuleNotFoundError" in record.detail


def test_rounding_is_no_change() -> None:
    graph = _graph()
    _, (record,) = rewrite(graph, _feeds(graph), passes={"rounding": HERE + "rounding"})
    assert record.outcome == "kept"


def test_declared_interface_stays_what_it_was() -> None:
    graph = _graph()
    result, (record,) = rewrite(graph, _feeds(graph), passes={"sharpens": HERE + "sharpens_the_output"})
    assert record.outcome == "kept"
    assert (result.inputs, result.outputs) == (graph.inputs, graph.outputs)
    assert result.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


def test_record_tells_what_was_declined() -> None:
    graph = _graph()
    result, (record,) = rewrite(graph, _feeds(graph), passes={"declines": HERE + "declines"})
    assert result is graph
    assert record.outcome == "unchanged"
    assert record.detail.startswith("declined Conv '0': is shared; Conv '1'")
    assert record.detail.endswith("and 2 more")


def test_progress_is_told_pass_by_pass() -> None:
    told: list[tuple[str, int, int]] = []
    graph = _graph()
    rewrite(graph, _feeds(graph), lambda name, at, total: told.append((name, at, total)))
    assert told == [(name, at, len(PASSES)) for at, name in enumerate(PASSES)]


def test_source_is_never_edited() -> None:
    graph = _graph()
    before = graph.fingerprint()
    rewrite(graph, _feeds(graph))
    assert graph.fingerprint() == before


def test_no_feeds_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no feeds"):
        rewrite(_graph(), [])


def test_one_batch_size_is_refused_where_the_batch_axis_is_open() -> None:
    graph = _graph()
    with pytest.raises(InvalidInput, match="same batch size"):
        rewrite(graph, _feeds(graph, (2, 2)))


@pytest.mark.parametrize("name", ["digits", "digits_mlp", "digits_lstm"])
def test_digits_models_keep_their_answers_with_fewer_nodes(name: str) -> None:
    graph = load_graph(EXAMPLES / f"{name}.onnx")
    result, records = rewrite(graph, _feeds(graph, (1, 3, 8)))
    assert [record for record in records if record.outcome == "dropped"] == []
    assert result.node_count < graph.node_count
    assert "BatchNormalization" not in result.op_counts()


def test_outputs_that_are_not_finite_are_compared() -> None:
    graph = _graph()
    model = graph.copy()
    model.graph.node[-1].op_type = "Log"
    odd = Graph(model)
    feeds = [{"x": np.full_like(feed["x"], np.nan)} for feed in _feeds(odd)]
    result, records = rewrite(odd, feeds)
    assert [record for record in records if record.outcome == "dropped"] == []
    assert result.op_counts() == {"Conv": 1, "Log": 1}


def test_text_goes_through_unchanged() -> None:
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
    text (string[N] x) => (string[N] y) { a = Identity(x) y = StringConcat(a, x) }""")
    graph = Graph(model)
    feeds: list[dict[str, Array]] = [{"x": np.array(["a", "ü"], object)}, {"x": np.array(["c"], object)}]
    result, _ = rewrite(graph, feeds)
    assert result.op_counts() == {"StringConcat": 1}
