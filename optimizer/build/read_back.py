"""Proof of what was built: an engine is opened again, run, and asked what it computes in. Nothing is assumed.

Two things are set side by side. What was asked stands in the artifact: the types of its graph and the hint. What was
made is what the library says of the engine that it runs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from onnx import NodeProto, TensorProto

from enginehouse.errors import NotSupported
from enginehouse.evidence import EngineLayer, EngineProof
from enginehouse.tensor import Tensors
from optimizer.build.onnxruntime_profile import onnxruntime_layers
from optimizer.build.open_artifact import Artifact
from optimizer.build.openvino_profile import openvino_layers
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import LAYER_OPERATORS, named_graph
from optimizer.graph.shapes import infer_shapes, value_types
from optimizer.trial import Hint, Precision

_TIMED_RUNS = 5

# Operators of ONNX, of ONNX Runtime and of OpenVINO that multiply by weights or by each other.
COMPUTING = frozenset(
    (
        "Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN",
        "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger", "FusedGemm", "QGemm", "FusedMatMul",
        "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits",
        "DynamicQuantizeLSTM", "Attention", "QAttention", "MultiHeadAttention",
        "Convolution", "Deconvolution", "FullyConnected", "RNNCell", "RNNSeq",
    )
)  # fmt: skip
# ONNX nodes that do, beside the layers of a float graph.
_DYNAMIC = frozenset(("ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger"))

_BITS = {"fp64": 64, "fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "int8_dynamic": 8, "int4": 4}
_OF_HINT: dict[Hint, str] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}
_OF_TYPE: dict[int, str] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}
_FOUR_BITS = frozenset((TensorProto.INT4, TensorProto.UINT4))


def read_back(artifact: Artifact, feeds: Tensors, threads: int) -> EngineProof:
    """Run an artifact as it will be served, and state what each of its layers computes in.

    Args:
        artifact: what was built.
        feeds: one batch, of the size that is served.
        threads: threads inside one operator.

    Raises:
        NotSupported: a plan for TensorRT, whose proof its build gives.
        EngineFailed: it cannot be opened or run.
    """
    graph = named_graph(load_graph(artifact.path))
    match artifact.engine:
        case "onnxruntime":
            layers = onnxruntime_layers(artifact.path, graph, feeds, threads, artifact.provider, _TIMED_RUNS)
        case "openvino":
            layers = openvino_layers(artifact.path, graph, feeds, threads, artifact.hint, _TIMED_RUNS)
        case _:
            raise NotSupported(f"{artifact.path.name} is a plan; what is in it was proven when it was built.")
    return _proof(layers, artifact, graph)


def precision_problem(proof: EngineProof, precision: Precision) -> str:
    """Say in one clause that an engine does not compute in what it was asked for; empty if it does."""
    if precision == "fp32" or proof.layer_share.get(precision, 0.0) > 0:
        return ""
    shares = ", ".join(f"{share:.0%} {name.upper()}" for name, share in sorted(proof.layer_share.items()))
    reason = next(iter(proof.kept.values()), "")
    because = f", because {reason}" if reason else ""
    return f"asked for {precision.upper()}, and no computing layer runs in it ({shares or 'there is none'}){because}"


def _proof(layers: tuple[EngineLayer, ...], artifact: Artifact, graph: Graph) -> EngineProof:
    asked = _asked(graph)
    computing = [layer for layer in layers if layer.operator in COMPUTING or asked.keys() & set(layer.source_nodes)]
    counts = Counter(layer.precision for layer in computing)
    times: dict[str, float] = {}
    for layer in layers:
        times[layer.precision] = times.get(layer.precision, 0.0) + (layer.time_ms or 0.0)
    total = sum(times.values())
    return EngineProof(
        layers=layers,
        layer_share={name: count / len(computing) for name, count in sorted(counts.items())},
        time_share={name: time / total for name, time in sorted(times.items())} if total else None,
        kept={name: reason for layer in computing for name, reason in _kept(layer, asked, artifact)},
    )


def _kept(layer: EngineLayer, asked: Mapping[str, str], artifact: Artifact) -> Iterator[tuple[str, str]]:
    for name in [name for name in layer.source_nodes if name in asked] or [layer.name]:
        wanted = asked.get(name, "fp32")
        if wanted == "fp32" and artifact.engine == "openvino":
            wanted = _OF_HINT[artifact.hint]
        if layer.precision != wanted and _BITS.get(layer.precision, 0) >= _BITS[wanted]:
            yield name, _why(layer, wanted, artifact)


def _why(layer: EngineLayer, wanted: str, artifact: Artifact) -> str:
    found = layer.precision.upper()
    if artifact.engine == "openvino":
        return f"OpenVINO computes {layer.operator} in {found} on this CPU where {wanted.upper()} was asked for"
    if wanted == "int8":
        return f"ONNX Runtime did not fuse the Q/DQ pairs around it and computes {layer.operator} in {found}"
    return f"ONNX Runtime has no {wanted.upper()} kernel for {layer.operator} here and computes in {found}"


def _asked(graph: Graph) -> dict[str, str]:
    """What the types of a graph ask of each node that multiplies."""
    nodes = graph.model.graph.node
    types = {name: kind.tensor_type.elem_type for name, kind in value_types(infer_shapes(graph.model, False)).items()}
    types |= {tensor.name: tensor.data_type for tensor in graph.model.graph.initializer}
    dequantized = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    return {node.name: _asked_of(node, types, dequantized) for node in nodes if _is_asked(node)}


def _is_asked(node: NodeProto) -> bool:
    return node.op_type in LAYER_OPERATORS or node.op_type in _DYNAMIC or node.op_type == "MatMulNBits"


def _asked_of(node: NodeProto, types: Mapping[str, int], dequantized: Mapping[str, NodeProto]) -> str:
    if node.op_type in _DYNAMIC:
        return "int8_dynamic"
    weights = dequantized.get(node.input[1])
    if node.op_type == "MatMulNBits" or (weights is not None and types.get(weights.input[0]) in _FOUR_BITS):
        return "int4"
    if weights is not None and node.input[0] in dequantized:
        return "int8"
    return _OF_TYPE.get(types.get(node.output[0], 0), "fp32")
