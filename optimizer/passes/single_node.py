"""One node as a model of its own, to learn what it makes of constants."""

import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path

import onnx
from onnx import numpy_helper

from enginehouse.dtype import Array, dtype_from_onnx
from enginehouse.errors import InvalidInput
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine

_IR_VERSION = 8


def output_bytes(node: onnx.NodeProto, feeds: Mapping[str, Array], opset: int) -> int | None:
    """Size of all results together, without computing them; None where it depends on the content.

    Raises:
        InvalidInput: the node contradicts its inputs, or makes something other than tensors.
    """
    total = 0
    for value in _inferred(node, feeds, opset).graph.output:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") or any(not size.HasField("dim_value") for size in tensor.shape.dim):
            return None
        total += prod(size.dim_value for size in tensor.shape.dim) * dtype_from_onnx(tensor.elem_type).size_bytes
    return total


def run_node(node: onnx.NodeProto, feeds: Mapping[str, Array], opset: int) -> dict[str, Array]:
    """Compute the results by name, as ONNX Runtime does.

    Raises:
        InvalidInput: the node contradicts its inputs.
        EngineFailed: ONNX Runtime cannot compute it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "node.onnx"
        onnx.save_model(_inferred(node, feeds, opset), str(path))
        engine = OnnxRuntimeEngine(path)
        try:
            return dict(engine.run({}))
        finally:
            engine.close()


def _inferred(node: onnx.NodeProto, feeds: Mapping[str, Array], opset: int) -> onnx.ModelProto:
    weights = [numpy_helper.from_array(array, name) for name, array in feeds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", [], outputs, weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    model.ir_version = _IR_VERSION
    try:
        return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError) as problem:
        raise InvalidInput(f"{node.op_type} contradicts its inputs: {problem}") from problem
