from collections.abc import Callable

import numpy as np
import pytest
from onnx import numpy_helper

from enginehouse.tensor import Tensors
from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.repair.adaptive_rounding import round_adaptively
from optimizer.repair.output_error import output_errors
from optimizer.repair.quantized_weights import quantized_weights
from optimizer.repair.repair import Quantize, Repaired

Quantizer = Callable[..., Callable[[Graph], Graph]]
Names = Callable[[Graph], list[str]]
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("model", "left"), [("cnn", 0.5), ("mlp", 0.7), ("transformer", 0.85)])
def test_four_bit_weights_of_a_trained_network_lose_much_of_their_error_on_rows_never_seen(
    request: pytest.FixtureRequest,
    digits: list[Tensors],
    unseen: list[Tensors],
    quantizer: Quantizer,
    names_of: Names,
    model: str,
    left: float,
) -> None:
    graph: Graph = request.getfixturevalue(model)
    fingerprint, quantize = graph.fingerprint(), quantizer(digits, 7, graph)
    found = round_adaptively(graph, names_of(graph), quantize, digits)
    assert isinstance(found, Repaired)
    before, after = output_errors(graph, [quantize(graph), quantize(found.graph)], unseen)
    assert after < left * before
    assert graph.fingerprint() == fingerprint


@pytest.mark.parametrize("levels", [127, 63, 7])
def test_plain_rounding_finds_the_chosen_integers_at_the_same_scales(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names, levels: int
) -> None:
    quantize = quantizer(digits, levels, cnn)
    found = round_adaptively(cnn, names_of(cnn), quantize, digits)
    assert isinstance(found, Repaired)
    before, after = (quantized_weights(quantize(each)) for each in (cnn, found.graph))
    counted = 0
    for name, old in before.items():
        np.testing.assert_array_equal(old.scales, after[name].scales)
        assert np.abs(after[name].integers).max() == levels
        counted += int((old.integers != after[name].integers).sum())
    assert found.detail.startswith(f"{counted} weights in the "), "what was chosen is what the quantizer finds"


def test_weights_whose_integers_stay_are_not_touched(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    quantize = quantizer(digits, 7, cnn)
    found = round_adaptively(cnn, names_of(cnn), quantize, digits)
    assert isinstance(found, Repaired)
    before, after = (quantized_weights(quantize(each)) for each in (cnn, found.graph))
    old, new = ({t.name: numpy_helper.to_array(t) for t in each.model.graph.initializer} for each in (cnn, found.graph))
    for node in cnn.model.graph.node:
        if node.name in before:
            same = before[node.name].integers == after[node.name].integers
            np.testing.assert_array_equal(old[node.input[1]][same], new[node.input[1]][same])
            np.testing.assert_array_equal(old[node.input[2]], new[node.input[2]])


def test_layers_that_are_not_quantized_keep_their_weights(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    last = names_of(cnn)[-1]
    found = round_adaptively(cnn, [last], quantizer(digits, 7, cnn), digits)
    assert isinstance(found, Repaired)
    pairs = zip(cnn.model.graph.initializer, found.graph.model.graph.initializer, strict=True)
    changed = [old.name for old, new in pairs if old.raw_data != new.raw_data]
    assert changed == [node.input[1] for node in cnn.model.graph.node if node.name == last]


@pytest.mark.parametrize(
    ("layer", "weights", "shape"),
    [
        ("Conv<group = 8, pads = [1, 1, 1, 1]>(x, w)", (8, 1, 3, 3), "8, 6, 6"),
        ("Conv<group = 2, strides = [2, 2]>(x, w)", (6, 4, 3, 3), "8, 7, 7"),
        ("Gemm<transB = 1>(x, w)", (12, 8), "8"),
        ("MatMul(x, w)", (8, 12), "5, 8"),
    ],
)
def test_every_kind_of_layer_is_rounded(
    plant: Callable[..., Graph], quantizer: Quantizer, layer: str, weights: tuple[int, ...], shape: str
) -> None:
    rank = len(shape.split(",")) + 1
    result = ", ".join("nopq"[:rank])
    text = f"(float[n, {shape}] x) => (float[{result}] y) {{ y = {layer} }}"
    graph = plant(text, {"w": RANDOM.standard_normal(weights)})
    sizes = tuple(int(size) for size in shape.split(","))
    together = RANDOM.standard_normal((64, *(1,) * len(sizes)))
    rows = np.maximum(RANDOM.standard_normal((64, *sizes)) + 2 * together, 0).astype(np.float32)
    feeds: list[Tensors] = [{"x": rows[at : at + 8]} for at in range(0, 64, 8)]
    quantize = quantizer(feeds, 7, graph)
    found = round_adaptively(graph, ["y_node"], quantize, feeds)
    assert isinstance(found, Repaired)
    before, after = output_errors(graph, [quantize(graph), quantize(found.graph)], feeds)
    assert after < 0.8 * before


def test_a_layer_is_rounded_on_what_the_rounded_layers_before_give_it(
    cnn: Graph,
    digits: list[Tensors],
    quantizer: Quantizer,
    names_of: Names,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("optimizer.repair.rounding_targets._SHARE_OF_ERROR", 1.0)
    quantize, layers = quantizer(digits, 7, cnn), names_of(cnn)[1:3]
    together = round_adaptively(cnn, layers, quantize, digits)
    first = round_adaptively(cnn, layers[:1], quantize, digits)
    assert isinstance(first, Repaired)
    then = round_adaptively(first.graph, layers[1:], quantize, digits, reference=cnn)
    assert isinstance(together, Repaired)
    assert isinstance(then, Repaired)
    for name in layers:
        found, expected = (quantized_weights(quantize(each.graph))[name].integers for each in (together, then))
        np.testing.assert_array_equal(found, expected)


def test_a_few_rows_that_say_little_spoil_nothing(
    mlp: Graph, digits: list[Tensors], unseen: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    """Eight rows for 64 and 256 inputs: what is fitted to them must hold on the rows kept apart, or it is not taken."""
    quantize = quantizer(digits, 7, mlp)
    found = round_adaptively(mlp, names_of(mlp), quantize, digits[:1])
    repaired = found.graph if isinstance(found, Repaired) else mlp
    before, after = output_errors(mlp, [quantize(mlp), quantize(repaired)], unseen)
    assert after < 1.2 * before


def test_one_row_is_not_enough_to_judge_by(
    mlp: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    feeds: list[Tensors] = [{"pixels": digits[0]["pixels"][:1]}]
    found = round_adaptively(mlp, names_of(mlp), quantizer(digits, 7, mlp), feeds)
    assert found == Declined("nearest rounding could not be bettered in any layer")


def test_it_declines_where_quantization_does(
    cnn: Graph, digits: list[Tensors], refuses: Quantize, names_of: Names
) -> None:
    assert round_adaptively(cnn, names_of(cnn), refuses, digits) == refuses(cnn)


def test_it_declines_where_the_rounded_graph_cannot_be_quantized(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    quantize = quantizer(digits, 7, cnn)
    found = round_adaptively(
        cnn, names_of(cnn), lambda graph: quantize(graph) if graph is cnn else Declined("not again"), digits
    )
    assert found == Declined("not again")


def test_it_declines_where_no_weights_are_integers(cnn: Graph, digits: list[Tensors], names_of: Names) -> None:
    found = round_adaptively(cnn, names_of(cnn), lambda graph: graph, digits)
    assert found == Declined("no layer has INT8 weights of its own whose inputs can be told")


def test_it_declines_where_the_outputs_gain_nothing(
    cnn: Graph, digits: list[Tensors], quantizer: Quantizer, names_of: Names
) -> None:
    quantize = quantizer(digits, 7, cnn)
    found = round_adaptively(cnn, names_of(cnn), quantize, digits, reference=quantize(cnn))
    assert isinstance(found, Declined), "the nearest integers are what this reference calls right"
    assert "gain too little: output error 0 -> " in found.reason
