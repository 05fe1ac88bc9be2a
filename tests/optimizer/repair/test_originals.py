from collections.abc import Callable, Sequence

import numpy as np
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.repair.adaptive_rounding import round_adaptively
from optimizer.repair.bias_correction import correct_biases
from optimizer.repair.originals import with_original_layers
from optimizer.repair.repair import Quantize, Repaired

Answers = Callable[[Graph, Sequence[Tensors]], list[Tensors]]
Quantizer = Callable[..., Callable[[Graph], Graph]]
Names = Callable[[Graph], list[str]]


def arrays_of(graph: Graph) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}


def repaired(graph: Graph, layers: Sequence[str], quantize: Quantize, feeds: Sequence[Tensors]) -> Graph:
    for repair in (round_adaptively, correct_biases):
        found = repair(graph, layers, quantize, feeds)
        assert isinstance(found, Repaired), found
        graph = found.graph
    return graph


def test_a_layer_gets_its_weights_and_its_bias_back_and_the_others_keep_theirs(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    changed = repaired(cnn, names_of(cnn), quantizer(digits, 7, cnn), digits)
    back = names_of(cnn)[2]
    found, before, after = (arrays_of(each) for each in (with_original_layers(changed, cnn, [back]), cnn, changed))
    for node in cnn.model.graph.node:
        for name in node.input[1:] if node.op_type in ("Conv", "Gemm") else ():
            np.testing.assert_array_equal(found[name], (before if node.name == back else after)[name])
            assert node.name != back or not np.array_equal(before[name], after[name])


def test_with_all_layers_back_the_answers_are_the_float_ones(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names, answers: Answers
) -> None:
    changed = repaired(cnn, names_of(cnn), quantizer(digits, 7, cnn), digits)
    found = with_original_layers(changed, cnn, names_of(cnn))
    for want, have in zip(answers(cnn, digits), answers(found, digits), strict=True):
        np.testing.assert_array_equal(want["logits"], have["logits"])


def test_a_bias_that_correction_brought_is_gone_again(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    random = np.random.default_rng(0)
    text = "(float[n, 8] x) => (float[n, 8] y) { a = Gemm(x, w) b = Relu(a) y = Gemm(b, v, c) }"
    weights = {"w": random.uniform(0, 1, (8, 8)), "v": random.standard_normal((8, 8)), "c": np.ones(8)}
    graph = plant(text, weights)
    feeds: list[Tensors] = [{"x": random.uniform(0, 1, (16, 8)).astype(np.float32)}]
    corrected = correct_biases(graph, names_of(graph), quantizer(feeds, 3, graph), feeds)
    assert isinstance(corrected, Repaired)
    assert len(corrected.graph.model.graph.initializer) == 4
    found = with_original_layers(corrected.graph, graph, names_of(graph))
    assert found.fingerprint() == graph.fingerprint()


def test_the_bias_in_an_add_behind_a_matmul_comes_back_too(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Names
) -> None:
    random = np.random.default_rng(0)
    text = "(float[n, 8] x) => (float[n, 8] y) { a = MatMul(x, w) y = Add(a, c) }"
    graph = plant(text, {"w": random.uniform(0, 1, (8, 8)), "c": np.ones(8)})
    feeds: list[Tensors] = [{"x": random.uniform(0, 1, (16, 8)).astype(np.float32)}]
    corrected = correct_biases(graph, names_of(graph), quantizer(feeds, 3, graph), feeds)
    assert isinstance(corrected, Repaired)
    assert corrected.graph.fingerprint() != graph.fingerprint()
    assert with_original_layers(corrected.graph, graph, ["a_node"]).fingerprint() == graph.fingerprint()
