from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.equalization import equalize
from optimizer.repair.layer_weights import with_weights
from optimizer.repair.output_error import output_errors
from optimizer.repair.repair import Quantize, Repaired

Answers = Callable[[Graph, Sequence[Tensors]], list[Tensors]]
Quantizer = Callable[..., Callable[[Graph], Graph]]
RANDOM = np.random.default_rng(0)


def arrays_of(graph: Graph) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.model.graph.initializer}


def unbalanced(graph: Graph) -> Graph:
    """The digits CNN with channels up to a thousand times larger than others, and the same answers."""
    arrays = arrays_of(graph)
    layers = [node for node in graph.model.graph.node if node.op_type in ("Conv", "Gemm")]
    for producer, reader in pairwise(layers):
        channels = len(arrays[producer.input[1]])
        factors = np.random.default_rng(channels).permutation(np.logspace(-1.5, 1.5, channels))
        for name in producer.input[1:]:
            arrays[name] = arrays[name] * factors.reshape(-1, *(1,) * (arrays[name].ndim - 1))
        weights = arrays[reader.input[1]]
        features = np.repeat(factors, weights.shape[1] // channels)
        arrays[reader.input[1]] = weights / features.reshape(1, -1, *(1,) * (weights.ndim - 2))
    floats = {name: array.astype(np.float32) for name, array in arrays.items() if array.dtype.kind == "f"}
    return with_weights(graph, floats)


def test_a_trained_network_with_unlike_channels_bears_int8_as_well_as_the_balanced_one(
    cnn: Graph,
    digits: list[Tensors],
    unseen: list[Tensors],
    quantizer: Quantizer,
    names_of: Callable[[Graph], list[str]],
) -> None:
    hard, quantize = unbalanced(cnn), quantizer(digits)
    found = equalize(hard, names_of(hard), quantize, digits)
    assert isinstance(found, Repaired)
    assert found.detail.startswith("5 of 5 activations equalized, output error ")
    balanced, before, after = (output_errors(each, [quantize(each)], unseen)[0] for each in (cnn, hard, found.graph))
    assert before > 50 * balanced, "the case is hard"
    assert after < 3 * balanced


def test_in_float_nothing_changes(
    cnn: Graph,
    digits: list[Tensors],
    unseen: list[Tensors],
    quantizer: Quantizer,
    names_of: Callable[[Graph], list[str]],
) -> None:
    hard = unbalanced(cnn)
    fingerprint = hard.fingerprint()
    found = equalize(hard, names_of(hard), quantizer(digits), digits)
    assert isinstance(found, Repaired)
    assert output_errors(hard, [found.graph], unseen)[0] < 1e-10
    assert hard.fingerprint() == fingerprint, "the given graph stays as it is"
    assert found.graph.op_counts() == hard.op_counts()


BLOCKS = {
    "depthwise": "a = Conv(x, w, p) b = Relu(a) c = Conv<group = 4>(b, d, q) e = Relu(c) y = Conv(e, v)",
    "grouped": "a = Conv(x, w, p) b = Relu(a) y = Conv<group = 2>(b, g)",
    "branches": "a = Conv(x, w, p) b = Relu(a) c = Conv(b, v) e = Conv(b, u) y = Add(c, e)",
    "pooled": "a = Conv(x, w) b = LeakyRelu<alpha = 0.2>(a) c = GlobalAveragePool(b) f = Flatten(c) y = MatMul(f, m)",
    "padded": "a = Conv(x, w) b = Relu(a) c = Pad(b, pads) y = Conv(c, v)",
    "dense": "f = Flatten(x) a = Gemm(f, k, s) b = Relu(a) y = Gemm(b, m)",
}


@pytest.mark.parametrize("block", BLOCKS)
def test_every_kind_of_chain_is_equalized_and_answers_as_before(
    plant: Callable[..., Graph],
    answers: Answers,
    quantizer: Quantizer,
    names_of: Callable[[Graph], list[str]],
    block: str,
) -> None:
    sizes = np.array([100.0, 1, 10, 0.1])
    weights = {
        "w": RANDOM.standard_normal((4, 3, 3, 3)) * sizes[:, None, None, None],
        "p": RANDOM.standard_normal(4) * sizes,
        "q": RANDOM.standard_normal(4),
        "k": RANDOM.standard_normal((192, 4)) * sizes,
        "s": np.array([0.3]),
        "d": RANDOM.standard_normal((4, 1, 3, 3)),
        "v": RANDOM.standard_normal((5, 4, 1, 1)) / sizes[:, None, None],
        "u": RANDOM.standard_normal((5, 4, 1, 1)) / sizes[:, None, None],
        "g": RANDOM.standard_normal((6, 2, 1, 1)),
        "m": RANDOM.standard_normal((4, 5)) / sizes[:, None],
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }
    words = BLOCKS[block].replace("(", " ").replace(")", " ").replace(",", " ").split()
    shape = "n, 5" if block in ("pooled", "dense") else "n, k, h, w2"
    graph = plant(
        f"(float[n, 3, 8, 8] x) => (float[{shape}] y) {{ {BLOCKS[block]} }}",
        {name: array for name, array in weights.items() if name in words},
    )
    feeds = [{"x": RANDOM.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    found = equalize(graph, names_of(graph), quantizer(feeds), feeds)
    assert isinstance(found, Repaired)
    expected, given = answers(graph, feeds), answers(found.graph, feeds)
    for want, have in zip(expected, given, strict=True):
        np.testing.assert_allclose(have["y"], want["y"], rtol=1e-4, atol=1e-4 * np.abs(want["y"]).max())


def test_channels_in_balance_are_left_alone(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Callable[[Graph], list[str]]
) -> None:
    found = equalize(cnn, names_of(cnn), quantizer(digits), digits)
    assert found == Declined("the channels of every activation are in balance")


def test_it_declines_where_quantization_does(
    cnn: Graph, digits: list[Tensors], refuses: Quantize, names_of: Callable[[Graph], list[str]]
) -> None:
    hard = unbalanced(cnn)
    assert equalize(hard, names_of(hard), refuses, digits) == refuses(hard)


def test_it_declines_where_nothing_is_gained(
    cnn: Graph, digits: list[Tensors], names_of: Callable[[Graph], list[str]]
) -> None:
    hard = unbalanced(cnn)
    found = equalize(hard, names_of(hard), lambda graph: graph, digits)
    assert isinstance(found, Declined)
    assert found.reason.startswith("5 of 5 activations equalized gain too little: output error 0 -> ")


def test_it_declines_where_no_chain_leads_to_a_quantized_layer(
    cnn: Graph,
    digits: list[Tensors],
    quantizer: Quantizer,
    plant: Callable[..., Graph],
    names_of: Callable[[Graph], list[str]],
) -> None:
    hard = unbalanced(cnn)
    found = equalize(hard, names_of(hard)[:1], quantizer(digits), digits)
    assert isinstance(found, Declined), "nothing feeds the first layer"
    single = plant("(float[n, 3] x) => (float[n, 2] y) { y = MatMul(x, w) }", {"w": np.ones((3, 2))})
    found = equalize(single, ["y_node"], quantizer([]), [])
    assert isinstance(found, Declined)
    assert found.reason.startswith("no layer feeds only layers: ")


def test_activations_whose_squares_overflow_are_left_alone(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Callable[[Graph], list[str]]
) -> None:
    text = "(float[n, 2] x) => (float[n, 2] y) { a = Gemm(x, w) b = Relu(a) y = Gemm(b, v) }"
    graph = plant(text, {"w": np.diag([1e30, 1e-30]), "v": np.ones((2, 2))})
    feeds = [{"x": np.ones((2, 2), np.float32)}]
    found = equalize(graph, names_of(graph), quantizer(feeds), feeds)
    assert found == Declined("the channels of every activation are in balance")


def test_weights_that_overflow_are_declined(
    plant: Callable[..., Graph], quantizer: Quantizer, names_of: Callable[[Graph], list[str]]
) -> None:
    text = "(float[n, 2] x) => (float[n, 2] y) { a = Gemm(x, w) b = Relu(a) y = Gemm(b, v) }"
    graph = plant(text, {"w": np.diag([3e5, 3e38]), "v": np.array([[1.0, 1.0], [1e3, 1e3]])})
    feeds: list[Tensors] = [{"x": (RANDOM.uniform(0, 1, (8, 2)) * [1, 1e-36]).astype(np.float32)}]
    found = equalize(graph, names_of(graph), quantizer(feeds), feeds)
    assert isinstance(found, Declined)
    assert found.reason.startswith("equalized weights would change the float model: ")
