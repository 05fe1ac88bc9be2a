"""What OpenVINO says it runs: the nodes of its runtime model that a run executes, their precision and their time."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from onnx import NodeProto

from enginehouse.evidence import EngineLayer
from enginehouse.openvino_engine import OpenVinoEngine
from enginehouse.tensor import Tensors
from optimizer.build.origins import SILENT
from optimizer.graph.graph import Graph
from optimizer.trial import Hint

_PRECISIONS = {
    "f32": "fp32", "f16": "fp16", "bf16": "bf16", "f64": "fp64", "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4",
    "i32": "int32", "i64": "int64",
}  # fmt: skip
_MULTIPLYING = frozenset(("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq"))
_RECURRENT = ("RNNCell", "RNNSeq")
_RECURRENT_NODES = frozenset(("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"))
_WEIGHTED_NODES = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))


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
    names = _Names(graph)
    owners: dict[str, str] = _recurrent_owners(nodes, graph)
    for node in sorted(nodes, key=lambda node: node.operator not in _MULTIPLYING):
        for name in names.of(node.origins):
            owners.setdefault(name, node.name)
    for name in list(names.unnamed(owners)):
        owners[name] = owners[names.reader_of(name, owners)]
    sources: dict[str, list[str]] = {}
    for name in (node.name for node in graph.model.graph.node if node.name in owners):
        sources.setdefault(owners[name], []).append(name)
    return tuple(
        EngineLayer(
            name=node.name,
            operator=node.operator,
            precision=node.precision,
            time_ms=node.milliseconds,
            source_nodes=tuple(sources.get(node.name, ())),
        )
        for node in nodes
    )


def _recurrent_owners(nodes: Sequence[_RunNode], graph: Graph) -> dict[str, str]:
    """OpenVINO gives these names of its own, but keeps their order."""
    made = [node.name for node in nodes if node.operator in _RECURRENT]
    asked = [node.name for node in graph.model.graph.node if node.op_type in _RECURRENT_NODES]
    return dict(zip(asked, made, strict=True)) if len(made) == len(asked) else {}


class _Names:
    """From the names that OpenVINO makes of ONNX nodes and outputs back to the nodes."""

    def __init__(self, graph: Graph) -> None:
        self._all = graph.model.graph.node
        self._nodes: dict[str, NodeProto] = {name: node for node in self._all for name in node.output}
        self._nodes |= {node.name: node for node in self._all}

    def of(self, origins: Sequence[str]) -> Iterator[str]:
        found = (node for name in origins if (node := self._node(name)) is not None)
        return (node.name for node in found if node.op_type not in SILENT)

    def unnamed(self, named: Collection[str]) -> Iterator[str]:
        """Nodes with weights that OpenVINO renamed as it folded what follows into them."""
        for node in self._all:
            if node.op_type in _WEIGHTED_NODES and node.name not in named and self.reader_of(node.name, named):
                yield node.name

    def reader_of(self, name: str, named: Collection[str]) -> str:
        """The node of a known name that is the only one to read a node's output; empty if there is none."""
        output = self._nodes[name].output[0]
        readers = [node.name for node in self._all if output in node.input]
        return readers[0] if len(readers) == 1 and readers[0] in named else ""

    def _node(self, name: str) -> NodeProto | None:
        """One ONNX node may become several, called `<its name>/<what each does>`."""
        while name:
            if name in self._nodes:
                return self._nodes[name]
            name = name.rpartition("/")[0]
        return None
