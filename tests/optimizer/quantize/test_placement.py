from optimizer.graph.graph import Graph
from optimizer.graph.layers import layers_of
from optimizer.quantize.placement import Placement, place
from optimizer.trial import EngineName
from tests.optimizer.quantize.graphs import conv, graph_of, node, weight

SHAPE = ("n", 3, 8, 8)
W, V = weight(3, 3, 3, 3), weight(3, 3, 3, 3)


def placed(graph: Graph, engine: EngineName = "onnxruntime", layers: str = "") -> Placement:
    floats = {"x"} | {name for each in graph.model.graph.node for name in each.output}
    chosen = [layer for layer in layers_of(graph) if not layers or layer.output in layers.split()]
    return place(graph, chosen, floats, engine)


def test_an_activation_is_held_for_its_layer_and_stays_float_for_others() -> None:
    graph = graph_of([node("Relu", "x", "r"), conv("r w", "c"), node("Mul", "c r", "y")], {"w": W}, SHAPE)
    found = placed(graph, "openvino")
    assert found.origins == {"r": "r"}
    assert found.given_out == set()
    assert found.readers == {"r": {"c_node"}}


def test_onnx_runtime_holds_what_a_convolution_gives_out_behind_its_activation() -> None:
    graph = graph_of([conv("x w", "c"), node("Relu", "c", "r"), node("Mul", "r x", "y")], {"w": W}, SHAPE)
    assert placed(graph).given_out == {"r"}
    assert placed(graph, "openvino").given_out == set()


def test_an_activation_that_is_not_the_only_reader_is_not_fused() -> None:
    graph = graph_of([conv("x w", "c"), node("Relu", "c", "r"), node("Sum", "r c", "y")], {"w": W}, SHAPE)
    assert placed(graph).given_out == {"c"}


def test_a_matrix_product_gives_out_floats() -> None:
    graph = graph_of([node("MatMul", "x w", "m"), node("Add", "m x", "y")], {"w": weight(8, 8)}, ("n", 8))
    for engine in ("onnxruntime", "openvino", "tensorrt"):
        found = placed(graph, engine)
        assert found.origins == {"x": "x"}
        assert found.nodes == ()


def test_integers_begin_before_what_only_passes_them_on() -> None:
    nodes = [
        node("Sigmoid", "x", "s"),
        node("MaxPool", "s", "p", kernel_shape=[2, 2]),
        node("Transpose", "p", "t", perm=[0, 1, 3, 2]),
        conv("t w", "y"),
    ]
    found = placed(graph_of(nodes, {"w": W}, SHAPE), "openvino")
    assert found.origins == {"s": "s", "p": "s", "t": "s"}
    assert found.given_out == {"p", "t"}
    assert found.readers == {"s": {"p_node"}}
    assert set(found.nodes) == {"p_node", "t_node"}


def test_a_pool_that_tells_where_it_found_its_values_is_not_passed_through() -> None:
    nodes = [node("MaxPool", "x", "p", kernel_shape=[2, 2]), conv("p w", "y")]
    nodes[0].output.append("where")
    assert placed(graph_of(nodes, {"w": W}, SHAPE), "openvino").origins == {"p": "p"}


def test_an_addition_of_eight_bit_values_is_in_eight_bits() -> None:
    nodes = [
        conv("x w", "c"),
        conv("x v", "d"),
        node("Add", "c d", "a"),
        node("Relu", "a", "r"),
        node("Mul", "r x", "y"),
    ]
    graph = graph_of(nodes, {"w": W, "v": V}, SHAPE)
    for engine in ("onnxruntime", "openvino"):
        found = placed(graph, engine)
        assert found.given_out == {"c", "d", "r"}
        assert found.nodes == ("a_node",)
    assert placed(graph, "tensorrt").given_out == set()


def test_a_gate_is_in_eight_bits_for_onnx_runtime_alone() -> None:
    nodes = [conv("x w", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "m"), conv("m v", "y")]
    graph = graph_of(nodes, {"w": W, "v": V}, SHAPE)
    assert placed(graph).nodes == ("s_node", "m_node")
    assert placed(graph).given_out == {"c", "s", "m", "y"}
    assert placed(graph, "openvino").nodes == ()
    assert placed(graph, "openvino").origins == {"x": "x", "m": "m"}


def test_a_sigmoid_that_is_no_gate_is_in_float() -> None:
    nodes = [conv("x w", "c"), node("Sigmoid", "c", "s"), node("Neg", "s", "y")]
    assert placed(graph_of(nodes, {"w": W}, SHAPE)).nodes == ()


def test_a_product_with_a_constant_is_in_float() -> None:
    nodes = [conv("x w", "c"), node("Mul", "c v", "m"), conv("m w", "y")]
    assert placed(graph_of(nodes, {"w": W, "v": weight(3, 1, 1)}, SHAPE)).nodes == ()


def test_an_addition_to_something_that_nobody_holds_is_in_float() -> None:
    nodes = [node("Sigmoid", "x", "s"), conv("x w", "c"), node("Add", "c s", "a"), node("Neg", "a", "y")]
    assert placed(graph_of(nodes, {"w": W}, SHAPE)).nodes == ()


def test_an_addition_of_two_inputs_that_layers_read_is_in_float() -> None:
    nodes = [
        node("Relu", "x", "r"),
        node("Add", "r x", "a"),
        conv("r w", "c"),
        conv("x v", "d"),
        node("Sum", "a c d", "y"),
    ]
    found = placed(graph_of(nodes, {"w": W, "v": V}, SHAPE), "openvino")
    assert found.nodes == (), "no eight-bit node gives either of them out"


def test_an_addition_whose_layer_stays_float_is_in_float() -> None:
    nodes = [conv("x w", "c"), conv("x v", "d"), node("Add", "c d", "a"), node("Neg", "a", "y")]
    graph = graph_of(nodes, {"w": W, "v": V}, SHAPE)
    assert placed(graph, layers="c").nodes == ()
    assert placed(graph, layers="c d").nodes == ("a_node",)


def test_the_outcome_of_the_whole_graph_is_not_an_addition_in_eight_bits() -> None:
    nodes = [conv("x w", "c"), conv("x v", "d"), node("Add", "c d", "y")]
    assert placed(graph_of(nodes, {"w": W, "v": V}, SHAPE)).nodes == ()


def test_additions_follow_one_another_in_eight_bits() -> None:
    nodes = [
        conv("x w", "c"),
        conv("x v", "d"),
        node("Add", "c d", "a"),
        conv("a w", "e"),
        node("Add", "e a", "b"),
        conv("b v", "y"),
    ]
    found = placed(graph_of(nodes, {"w": W, "v": V}, SHAPE), "openvino")
    assert found.nodes == ("a_node", "b_node")
    assert found.given_out == {"c", "d", "a", "e", "b"}


def test_tensorrt_reads_a_held_residual_in_eight_bits_and_the_layer_in_float() -> None:
    nodes = [node("Sigmoid", "x", "s"), conv("s w", "c"), node("Add", "c s", "a"), node("Neg", "a", "y")]
    found = placed(graph_of(nodes, {"w": W}, SHAPE), "tensorrt")
    assert found.readers == {"s": {"c_node", "a_node"}}
    assert found.given_out == set()
