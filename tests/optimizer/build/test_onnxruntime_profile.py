"""ONNX Runtime's own account of small graphs: its kernels, their precision, their nodes, their time."""

from pathlib import Path

import numpy as np
import pytest

from enginehouse.evidence import EngineLayer
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from enginehouse.tensor import Tensors
from optimizer.build.onnxruntime_profile import onnxruntime_layers
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import named_graph
from tests.conftest import DIGITS
from tests.optimizer.build.small_nets import (
    blocked_product,
    dynamic_product,
    images,
    perceptron,
    quantized_convolution,
    quantized_product,
    recurrent,
    residual,
    rows,
)


def layers(graph: Graph, feeds: Tensors, folder: Path) -> tuple[EngineLayer, ...]:
    path = folder / "model.onnx"
    graph.save(path)
    return onnxruntime_layers(path, graph, feeds, 1, CPU_PROVIDER, runs=2)


def by_source(found: tuple[EngineLayer, ...]) -> dict[str, EngineLayer]:
    return {name: layer for layer in found for name in layer.source_nodes}


@pytest.mark.parametrize(
    ("graph", "feeds", "node", "precision"),
    [
        (perceptron(), rows(), "second", "fp32"),
        (quantized_convolution(True), images(), "conv", "int8"),
        (quantized_convolution(False), images(), "conv", "fp32"),
        (quantized_product(), rows(), "product", "int8"),
        (dynamic_product(), rows(), "product", "int8_dynamic"),
        (blocked_product(), rows(), "product", "int4"),
        (recurrent(), rows(), "lstm", "fp32"),
    ],
    ids=["float", "pairs", "pairs without one behind", "pairs into a float", "dynamic", "blocks", "recurrent"],
)
def test_each_layer_is_listed_with_what_it_computes_in(
    tmp_path: Path, graph: Graph, feeds: Tensors, node: str, precision: str
) -> None:
    assert by_source(layers(graph, feeds, tmp_path))[node].precision == precision


def test_fused_nodes_stand_together(tmp_path: Path) -> None:
    found = by_source(layers(perceptron(), rows(), tmp_path))
    assert found["first"] is found["relu"]
    assert found["first"].operator == "FusedGemm"
    found = by_source(layers(residual(), images(), tmp_path))
    assert found["second"] is found["add"] is found["last"]
    assert found["first"] is not found["second"]


def test_every_kernel_has_the_time_that_it_took(tmp_path: Path) -> None:
    found = layers(perceptron(), rows(), tmp_path)
    assert all(layer.time_ms is not None and 0 <= layer.time_ms < 1000 for layer in found)
    assert sum(layer.time_ms or 0 for layer in found) > 0


@pytest.mark.parametrize("name", ["digits", "digits_mlp", "digits_lstm"])
def test_every_node_of_a_real_model_belongs_to_exactly_one_kernel(tmp_path: Path, name: str) -> None:
    graph = named_graph(load_graph(DIGITS / f"{name}.onnx"))
    spec = graph.inputs[0]
    found = layers(graph, {spec.name: np.ones((2, *spec.shape[1:]), np.float32)}, tmp_path)
    sources = [node for layer in found for node in layer.source_nodes]
    assert len(sources) == len(set(sources))
    multiplying = {n.name for n in graph.model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul", "LSTM")}
    assert multiplying <= set(sources)
