from collections.abc import Callable

import numpy as np
import pytest

from enginehouse.dtype import Array
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.passes.graph_editor import GraphEditor
from optimizer.repair.junctions import Junction, junction_after
from optimizer.repair.layer_weights import LayerWeights

RANDOM = np.random.default_rng(0)
FIRST, SECOND = RANDOM.standard_normal((4, 3, 3, 3)), RANDOM.standard_normal((5, 4, 1, 1))
IMAGES = "(float[batch, 3, 6, 6] x) => (float[batch, 5, h, v] y) { a = Conv(x, w) %s y = Conv(%s, v) }"


def after_first_layer(graph: Graph) -> Junction | Declined:
    editor = GraphEditor(graph)
    return junction_after(editor, LayerWeights(graph), editor.nodes[0])


@pytest.mark.parametrize(
    ("between", "last"),
    [
        ("", "a"),
        ("b = Relu(a)", "b"),
        ("b = LeakyRelu<alpha = 0.1>(a)", "b"),
        ("b = PRelu(a, slope)", "b"),
        ("b = MaxPool<kernel_shape = [2, 2]>(a)", "b"),
        ("b = AveragePool<kernel_shape = [2, 2]>(a)", "b"),
        ("b = Pad(a, pads)", "b"),
        ('b = Pad<mode = "reflect">(a, pads)', "b"),
        ("b = Pad(a, pads, zero)", "b"),
        ("b = Relu(a) c = GlobalAveragePool(b)", "c"),
    ],
)
def test_it_reaches_through_what_scales_channel_by_channel(
    plant: Callable[..., Graph], between: str, last: str
) -> None:
    weights = {"w": FIRST, "v": SECOND}
    extra = {"slope": np.full((4, 1, 1), 0.2), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.array(0.0)}
    weights |= {name: array for name, array in extra.items() if name in between}
    junction = after_first_layer(plant(IMAGES % (between, last), weights))
    assert isinstance(junction, Junction)
    assert [(sink.node.name, sink.features) for sink in junction.sinks] == [("y_node", 1)]


@pytest.mark.parametrize(
    ("between", "last", "reason"),
    [
        ("b = Sigmoid(a)", "b", "Sigmoid 'b_node' cannot be scaled"),
        ("b = Clip(a, zero)", "b", "Clip 'b_node' cannot be scaled"),
        ("b = Pad(a, pads, one)", "b", "Pad 'b_node' cannot be scaled"),
        ("b = Relu(a) c = Add(a, b)", "c", "Add 'c_node' cannot be scaled"),
    ],
)
def test_it_ends_where_something_does_not(plant: Callable[..., Graph], between: str, last: str, reason: str) -> None:
    weights = {"w": FIRST, "v": SECOND}
    extra = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.array(0.0), "one": np.array(1.0)}
    weights |= {name: array for name, array in extra.items() if name in between}
    found = after_first_layer(plant(IMAGES % (between, last), weights))
    assert isinstance(found, Declined)
    assert found.reason.startswith(reason)


def test_every_branch_must_end_in_a_layer(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 3, 6, 6] x) => (float[n, 5, 4, 4] y, float[n, 5, 4, 4] z) { a = Conv(x, w) b = Relu(a) %s }"
    both = plant(text % "y = Conv(b, v) z = Conv(a, u)", {"w": FIRST, "v": SECOND, "u": -SECOND})
    junction = after_first_layer(both)
    assert isinstance(junction, Junction)
    assert {sink.node.name for sink in junction.sinks} == {"y_node", "z_node"}
    one = plant(text % "y = Conv(b, v) c = Exp(b) z = Conv(c, u)", {"w": FIRST, "v": SECOND, "u": -SECOND})
    assert isinstance(after_first_layer(one), Declined)


def test_an_output_of_the_graph_cannot_be_scaled(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 3, 6, 6] x) => (float[n, 5, 4, 4] y, float[n, 4, 4, 4] a) { a = Conv(x, w) y = Conv(a, v) }"
    found = after_first_layer(plant(text, {"w": FIRST, "v": SECOND}))
    assert found == Declined("'a' is needed outside the chain")


def test_a_value_that_a_subgraph_reads_cannot_be_scaled(plant: Callable[..., Graph]) -> None:
    text = """(float[n, 3, 6, 6] x, bool t) => (float[n, 5, 4, 4] y, float[n, 4, 4, 4] z) {
        a = Conv(x, w) y = Conv(a, v)
        z = If(t) <
            then_branch = g1 () => (float[n, 4, 4, 4] p) { p = Neg(a) },
            else_branch = g2 () => (float[n, 4, 4, 4] q) { q = Identity(a) }
        >
    }"""
    found = after_first_layer(plant(text, {"w": FIRST, "v": SECOND}))
    assert found == Declined("'a' is needed outside the chain")


@pytest.mark.parametrize("flatten", ["Flatten(a)", "Flatten<axis = 1>(a)", "Reshape(a, shape)"])
def test_a_flattened_image_has_many_features_for_each_channel(plant: Callable[..., Graph], flatten: str) -> None:
    text = "(float[batch, 3, 6, 6] x) => (float[batch, 5] y) { a = Conv(x, w) b = %s c = Relu(b) y = MatMul(c, v) }"
    weights: dict[str, Array] = {"w": FIRST, "v": RANDOM.standard_normal((64, 5))}
    weights |= {"shape": np.array([-1, 64])} if "shape" in flatten else {}
    junction = after_first_layer(plant(text % flatten, weights))
    assert isinstance(junction, Junction)
    assert junction.sinks[0].features == 16


def test_a_matmul_that_reads_the_width_of_an_image_is_no_reader_of_channels(plant: Callable[..., Graph]) -> None:
    text = "(float[batch, 3, 6, 6] x) => (float[batch, 4, 4, 5] y) { a = Conv(x, w) y = MatMul(a, v) }"
    found = after_first_layer(plant(text, {"w": FIRST, "v": RANDOM.standard_normal((4, 5))}))
    assert found == Declined("MatMul 'y_node' cannot be scaled channel by channel")


def test_a_matmul_with_its_add_is_one_layer(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 7, 3] x) => (float[n, 7, 5] y) { a = MatMul(x, w) b = Add(a, bias) c = Relu(b) y = MatMul(c, v) }"
    weights = {"w": RANDOM.standard_normal((3, 4)), "bias": np.ones(4), "v": RANDOM.standard_normal((4, 5))}
    junction = after_first_layer(plant(text, weights))
    assert isinstance(junction, Junction)
    assert junction.bias.site == "b_node"


@pytest.mark.parametrize("shared", ["w", "b"])
def test_shared_weights_are_left_alone(plant: Callable[..., Graph], shared: str) -> None:
    text = "(float[n, 4] x) => (float[n, 4] y) { a = Gemm(x, w, b) y = Gemm(a, %s) }"
    graph = plant(
        text % ("w, c" if shared == "w" else "v, b"),
        {"w": np.eye(4), "b": np.ones(4), **({"c": np.ones(4)} if shared == "w" else {"v": np.eye(4)})},
    )
    assert after_first_layer(graph) == Declined("the weights of Gemm 'a_node' are shared or not constant")


def test_a_layer_without_constant_weights_is_named(plant: Callable[..., Graph]) -> None:
    found = after_first_layer(plant("(float[2, 3] x, float[3, 2] w) => (float[2, 2] y) { y = Gemm(x, w) }", {}))
    assert found == Declined("the weights of Gemm 'y_node' are shared or not constant")


def test_a_layer_of_another_kind_is_named(plant: Callable[..., Graph]) -> None:
    text = "(float[n, 4, 3, 3] x) => (float[n, 5, 4, 4] y) { y = ConvTranspose(x, w) }"
    found = after_first_layer(plant(text, {"w": RANDOM.standard_normal((4, 5, 2, 2))}))
    assert found == Declined("ConvTranspose 'y_node' is no Conv, Gemm or MatMul with one bias per channel")
