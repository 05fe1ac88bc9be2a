"""INT4, weights only: each layer keeps floats on its way, and reads its matrix as four-bit integers in blocks.

`matmul_nbits` is ONNX Runtime's own operator, with a zero point per block; it computes with activations rounded to
eight bits row by row (`accuracy_level` 4), so rows stay independent of their neighbours. `qdq` is the standard form,
symmetric, that OpenVINO and TensorRT read; it needs an opset with four-bit types.
"""

from collections.abc import Callable, Collection
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto, helper

from optimizer.graph.declined import Declined
from optimizer.graph.graph import Graph
from optimizer.graph.layers import named_graph
from optimizer.quantize.blocks import Blocks, four_bit_blocks, packed
from optimizer.quantize.graph_writer import GraphWriter
from optimizer.quantize.matrix_layers import MatrixLayer, matrix_layers
from optimizer.quantize.opset import with_opset

_OPSET_WITH_INT4 = 21
_ACCURACY_LEVEL = 4
_SMALLEST_BLOCK = 16

Form = Literal["matmul_nbits", "qdq"]


def quantize_int4(graph: Graph, layers: Collection[str], form: Form, block_size: int = 32) -> Graph | Declined:
    """Quantize those of `layers` that can be: MatMul and Gemm with FP32 weights, named as in `graph`, which stays."""
    if block_size < _SMALLEST_BLOCK or block_size & (block_size - 1):
        return Declined(f"block size {block_size} is not a power of two of at least {_SMALLEST_BLOCK}")
    named = named_graph(graph)
    if form == "qdq":
        raised = with_opset(named, _OPSET_WITH_INT4)
        if isinstance(raised, Declined):
            return raised
        named = raised
    matrices = matrix_layers(named, layers)
    if not matrices:
        return Declined("no MatMul or Gemm with FP32 weights to quantize")
    writer = GraphWriter(named)
    write = _nbits_writer(writer, block_size) if form == "matmul_nbits" else _pair_writer(writer, block_size)
    for node in writer.old_nodes:
        if node.name in matrices:
            write(node, matrices[node.name])
        else:
            writer.keep(node)
    return writer.finish()


Write = Callable[[NodeProto, MatrixLayer], None]


def _nbits_writer(writer: GraphWriter, block_size: int) -> Write:
    written: dict[tuple[str, tuple[bool, float]], list[str]] = {}

    def write(node: NodeProto, layer: MatrixLayer) -> None:
        key = (layer.weight_name, layer.form)
        if key not in written:
            written[key] = _nbits_constants(writer, layer, four_bit_blocks(layer.weight, block_size, is_signed=False))
        output = writer.fresh(f"{layer.name}/product") if layer.bias else layer.output
        rows, columns = layer.weight.shape
        sizes = {"K": rows, "N": columns, "bits": 4, "block_size": block_size, "accuracy_level": _ACCURACY_LEVEL}
        inputs = [layer.activation, *written[key]]
        writer.add_contributed(helper.make_node("MatMulNBits", inputs, [output], name=node.name, **sizes))
        if layer.bias:
            writer.add("Add", [output, layer.bias], layer.output, f"{layer.name}/Add")

    return write


def _nbits_constants(writer: GraphWriter, layer: MatrixLayer, blocks: Blocks) -> list[str]:
    name = layer.weight_name
    return [
        writer.constant(f"{name}/integers", packed(blocks.integers)),
        writer.constant(f"{name}/scale", blocks.scales),
        writer.constant(f"{name}/zero_point", packed(blocks.zeros)),
    ]


def _pair_writer(writer: GraphWriter, block_size: int) -> Write:
    written: dict[tuple[str, tuple[bool, float]], str] = {}

    def write(node: NodeProto, layer: MatrixLayer) -> None:
        key = (layer.weight_name, layer.form)
        if key not in written:
            written[key] = _dequantized(writer, layer, block_size)
        del node.attribute[:]
        node.input[1] = written[key]
        writer.keep(node)

    return write


def _dequantized(writer: GraphWriter, layer: MatrixLayer, block_size: int) -> str:
    """Blocks run down the rows of [inputs, outputs]; where they do not fill them, one block is a whole column."""
    rows, columns = layer.weight.shape
    size = block_size if rows % block_size == 0 else rows
    blocks = four_bit_blocks(layer.weight, size, is_signed=True)
    integers = blocks.integers.reshape(columns, rows).T
    raw = packed(np.ascontiguousarray(integers).reshape(-1)).tobytes()
    name = writer.fresh(f"{layer.weight_name}/integers")
    writer.model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT4, (rows, columns), raw, raw=True))
    scale = writer.constant(f"{layer.weight_name}/scale", np.ascontiguousarray(blocks.scales.T))
    output = writer.fresh(f"{layer.weight_name}/dequantized")
    label = f"{layer.weight_name}/DequantizeLinear"
    return writer.add("DequantizeLinear", [name, scale], output, label, axis=0, block_size=size)
