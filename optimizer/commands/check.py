"""`check --for ENGINE MODEL`: every node that an engine's library cannot take, with its reason, before a build."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.tensorrt_library import LIBRARIES
from optimizer.build.cpu_support import unsupported_by_onnxruntime, unsupported_by_openvino
from optimizer.build.tensorrt_support import unsupported_nodes
from optimizer.build.unsupported_node import UnsupportedNode
from optimizer.graph.graph import Graph, load_graph
from optimizer.graph.layers import named_graph
from optimizer.importers.import_model import import_model
from optimizer.trial import EngineName

_PROXY = (
    "Asked was TensorRT-RTX, because TensorRT cannot be asked on this machine: their parsers are near, not equal. "
    "Check again where TensorRT is."
)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What to print, and whether the engine takes the whole model."""

    report: RenderableType
    is_supported: bool


def check_model(model: Path, engine: str) -> CheckReport:
    """Ask the library behind an engine what it cannot take of a model.

    Raises:
        InvalidInput: an unknown engine, or a file that is no model.
        MissingExtra: the library is not installed.
    """
    if engine not in get_args(EngineName):
        raise InvalidInput(f"--for {engine} is unknown; expected one of {', '.join(get_args(EngineName))}.")
    with tempfile.TemporaryDirectory() as folder:
        graph = _graph(model, Path(folder))
        path = Path(folder) / f"{model.stem}.onnx"
        graph.save(path)
        nodes, note = _unsupported(graph, path, engine)
    summary = _summary(model, engine, nodes, graph)
    parts: list[RenderableType] = [_table(nodes), summary] if nodes else [summary]
    return CheckReport(Group(*parts, *([Text(note)] if note else [])), not nodes)


def _graph(model: Path, folder: Path) -> Graph:
    """The model as it is; an ONNX file is not imported, because that would refuse what the check is to report."""
    graph = load_graph(model) if model.suffix.lower() == ".onnx" else import_model(model, folder)
    return named_graph(graph)


def _unsupported(graph: Graph, path: Path, engine: str) -> tuple[tuple[UnsupportedNode, ...], str]:
    match engine:
        case "onnxruntime":
            return unsupported_by_onnxruntime(graph, path), ""
        case "openvino":
            return unsupported_by_openvino(graph, path), ""
        case "tensorrt-rtx":
            return unsupported_nodes(graph, "tensorrt-rtx"), ""
    try:
        return unsupported_nodes(graph, "tensorrt"), ""
    except (MissingExtra, EngineFailed) as problem:
        try:
            return unsupported_nodes(graph, "tensorrt-rtx"), _PROXY
        except MissingExtra:
            raise problem from None


def _table(nodes: tuple[UnsupportedNode, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("node", overflow="fold")
    table.add_column("operator", no_wrap=True)
    table.add_column("why", ratio=1, overflow="fold")
    for node in nodes:
        table.add_row(Text(node.node), Text(node.operator), Text(node.reason))
    return table


def _summary(model: Path, engine: str, nodes: tuple[UnsupportedNode, ...], graph: Graph) -> Text:
    title = next((library.title for name, library in LIBRARIES.items() if name == engine), engine)
    if not nodes:
        return Text(f"{title} takes every one of the {graph.node_count} nodes of {model.name}.")
    return Text(f"{title} cannot take {model.name}: {len(nodes)} of its {graph.node_count} nodes or tensors.")
