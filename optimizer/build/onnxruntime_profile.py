"""What ONNX Runtime says it runs: its own graph, with the time and the element types of each kernel of it."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
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

# Kernels that find their ranges as they run, and those that compute on blocks of four bits.
_DYNAMIC = frozenset(
    ("ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat")
)
_PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "uint8": "int8"}
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
    return _layers(_kernels(events), nodes, Origins(graph).of_kernels(nodes))


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
    kernels: Mapping[tuple[str, str], _Kernel], nodes: Sequence[onnx.NodeProto], origins: Sequence[tuple[str, ...]]
) -> tuple[EngineLayer, ...]:
    sources: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for node, origin in zip(nodes, origins, strict=True):
        sources[node.name].append(origin)
    layers = []
    for (name, _), kernel in kernels.items():
        layers.append(
            EngineLayer(
                name=name,
                operator=kernel.operator,
                precision=_precision(kernel),
                time_ms=median(kernel.milliseconds[1:] or kernel.milliseconds),
                source_nodes=sources[name].pop(0) if sources[name] else (),
            )
        )
    return tuple(layers)


def _precision(kernel: _Kernel) -> str:
    """What it computes in: what it is given first tells, because kernels of mixed inputs do not exist beside these."""
    if kernel.operator in _DYNAMIC:
        return "int8_dynamic"
    if kernel.operator == _BLOCKED:
        return "int4"
    given = kernel.input_types[0] if kernel.input_types else ""
    return _PRECISIONS.get(given, given)
