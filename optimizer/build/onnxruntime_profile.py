"""What ONNX Runtime says it runs: its own graph, with the time and the element types of each kernel of it."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from enginehouse.evidence import EngineLayer
from enginehouse.onnxruntime_engine import OPTIMIZED_FILE, OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.build.origins import Origins
from optimizer.graph.graph import Graph

# Kernels that compute in integers on ranges that they, or nodes of the graph before them, find as they run.
_DYNAMIC = frozenset(("DynamicQuantizeLSTM", "DynamicQuantizeMatMul"))
_DYNAMIC_NODES = frozenset(("ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"))
_PRECISIONS = {
    "float": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "double": "fp64",
    "int8": "int8",
    "uint8": "int8",
}
# Weights in blocks of four bits.
_BLOCKED = "MatMulNBits"
_ENDING = "_kernel_time"


@dataclass(slots=True)
class _Kernel:
    """Measured calls of one kernel."""

    operator: str
    input_types: tuple[str, ...]
    milliseconds: list[float] = field(default_factory=list)


def onnxruntime_layers(
    path: Path, graph: Graph, feeds: Tensors, threads: int, provider: str, runs: int
) -> tuple[EngineLayer, ...]:
    """Run a file as it is served and list its kernels, in the order in which they run, with their median time.

    Args:
        path: the ONNX file.
        graph: the same, read; its nodes have names.
        feeds: one batch.
        threads: threads inside one operator.
        provider: the execution provider.
        runs: how many runs are timed, after one that is not.

    Raises:
        EngineFailed: ONNX Runtime cannot open or run the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = OnnxRuntimeEngine(path, threads, provider, profile_into=Path(folder))
        for _ in range(runs + 1):
            engine.run(feeds)
        events = json.loads(engine.end_profile().read_bytes())
        engine.close()
        nodes = onnx.load_model(str(Path(folder) / OPTIMIZED_FILE), load_external_data=False).graph.node
    dynamic = {node.name for node in graph.model.graph.node if node.op_type in _DYNAMIC_NODES}
    return _layers(_kernels(events), nodes, Origins(graph).of_kernels(nodes), dynamic)


def _kernels(events: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], _Kernel]:
    """Kernels by name and index: fused ones of one kind may all have the same name."""
    found: dict[tuple[str, str], _Kernel] = {}
    for event in events:
        if event["cat"] != "Node" or not event["name"].endswith(_ENDING):
            continue
        facts = event["args"]
        key = (event["name"].removesuffix(_ENDING), facts["node_index"])
        types = tuple(name for shape in facts["input_type_shape"] for name in shape)
        kernel = found.setdefault(key, _Kernel(facts["op_name"], types))
        kernel.milliseconds.append(event["dur"] / 1000)
    return found


def _layers(
    kernels: Mapping[tuple[str, str], _Kernel],
    nodes: Sequence[onnx.NodeProto],
    origins: Sequence[tuple[str, ...]],
    dynamic: Collection[str],
) -> tuple[EngineLayer, ...]:
    waiting: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for node, origin in zip(nodes, origins, strict=True):
        waiting[node.name].append(origin)
    layers = []
    for (name, _), kernel in kernels.items():
        sources = waiting[name].pop(0) if waiting[name] else ()
        is_dynamic = kernel.operator in _DYNAMIC or any(source in dynamic for source in sources)
        layers.append(
            EngineLayer(
                name=name,
                operator=kernel.operator,
                precision=_precision(kernel, is_dynamic),
                time_ms=median(kernel.milliseconds[1:] or kernel.milliseconds),
                source_nodes=sources,
            )
        )
    return tuple(layers)


def _precision(kernel: _Kernel, is_dynamic: bool) -> str:
    """What it is given first tells what it computes in; a kernel that quantizes that by itself is given a float."""
    if kernel.operator == _BLOCKED:
        return "int4"
    if is_dynamic:
        return "int8_dynamic"
    given = kernel.input_types[0] if kernel.input_types else ""
    return _PRECISIONS.get(given, given)
