"""What OpenVINO says it runs: the nodes of its runtime model that a run executes, their precision and their time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from onnx import NodeProto

from enginehouse.evidence import EngineLayer
from enginehouse.openvino_engine import OpenVinoEngine
from enginehouse.tensor import Tensors
from optimizer.graph.graph import Graph
from optimizer.trial import Hint

_PRECISIONS = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4",
    "i32": "int32", "i64": "int64",
}  # fmt: skip
_MULTIPLYING = frozenset(("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq"))
_RECURRENT = ("RNNCell", "RNNSeq")
_RECURRENT_NODES = frozenset(("LSTM", "GRU", "RNN"))
# They move, mark or hold values; what is asked about is what computes.
_SILENT = frozenset(("QuantizeLinear", "DequantizeLinear", "Cast", "Constant"))


@dataclass(frozen=True, slots=True)
class _RunNode:
    """A node of the runtime model; `origins` are names that OpenVINO gave to what it was fused from."""

    name: str
    operator: str
    precision: str
    milliseconds: float
    origins: tuple[str, ...]


def openvino_layers(
    path: Path, graph: Graph, feeds: Tensors, threads: int, hint: Hint, runs: int
) -> tuple[EngineLayer, ...]:
    """Run a file as it is served and list the nodes that ran, with their median time.

    Args:
        path: the ONNX file.
        graph: the same, read; its nodes have names.
        feeds: one batch.
        threads: threads that one run uses.
        hint: what float layers shall compute in.
        runs: how many runs are timed, after one that is not.

    Raises:
        MissingExtra: OpenVINO is not installed.
        EngineFailed: OpenVINO cannot open or run the file.
    """
    engine = OpenVinoEngine(path, threads, hint, {"PERF_COUNT": "YES"})
    times: dict[str, list[float]] = {}
    for run in range(runs + 1):
        engine.run(feeds)
        for name, milliseconds in engine.node_times().items():
            times.setdefault(name, []).extend([milliseconds] if run else [])
    nodes = [_run_node(facts, times) for facts in engine.runtime_nodes() if facts["name"] in times]
    engine.close()
    return _layers(nodes, graph)


def _run_node(facts: Mapping[str, Any], times: Mapping[str, Sequence[float]]) -> _RunNode:
    precision = facts["runtimePrecision"]
    return _RunNode(
        name=facts["name"],
        operator=facts["layerType"],
        precision=_PRECISIONS.get(precision, precision),
        milliseconds=median(times[facts["name"]] or [0.0]),
        origins=tuple(name for name in facts["originalLayersNames"].split(",") if name),
    )


def _layers(nodes: Sequence[_RunNode], graph: Graph) -> tuple[EngineLayer, ...]:
    """What multiplies has the first claim on an ONNX node of which OpenVINO made several of its own."""
    claimed: set[str] = set()
    sources: dict[str, tuple[str, ...]] = _recurrent_sources(nodes, graph)
    claimed.update(name for names in sources.values() for name in names)
    names = _Names(graph)
    for node in sorted(nodes, key=lambda node: node.operator not in _MULTIPLYING):
        own = [name for name in names.of(node.origins) if name not in claimed]
        sources[node.name] = (*sources.get(node.name, ()), *own)
        claimed.update(own)
    return tuple(
        EngineLayer(
            name=node.name,
            operator=node.operator,
            precision=node.precision,
            time_ms=node.milliseconds,
            source_nodes=sources[node.name],
        )
        for node in nodes
    )


def _recurrent_sources(nodes: Sequence[_RunNode], graph: Graph) -> dict[str, tuple[str, ...]]:
    """OpenVINO gives these names of its own, but keeps their order."""
    made = [node.name for node in nodes if node.operator in _RECURRENT]
    asked = [node.name for node in graph.model.graph.node if node.op_type in _RECURRENT_NODES]
    return {name: (node,) for name, node in zip(made, asked, strict=True)} if len(made) == len(asked) else {}


class _Names:
    """From the names that OpenVINO makes of ONNX nodes and outputs back to the nodes."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.model.graph.node
        self._nodes: dict[str, NodeProto] = {name: node for node in nodes for name in node.output}
        self._nodes |= {node.name: node for node in nodes}

    def of(self, origins: Sequence[str]) -> Iterator[str]:
        found = (node for name in origins if (node := self._node(name)) is not None)
        return iter(dict.fromkeys(node.name for node in found if node.op_type not in _SILENT))

    def _node(self, name: str) -> NodeProto | None:
        """One ONNX node may become several, called `<its name>/<what each does>`."""
        while name:
            if name in self._nodes:
                return self._nodes[name]
            name = name.rpartition("/")[0]
        return None
