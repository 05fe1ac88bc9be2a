"""What a TensorRT library cannot build of a graph, node by node, asked of its own parser before a build; no GPU needed.

The answer is that of the library which is asked: TensorRT-RTX's is a near, not an exact, proxy for TensorRT's.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

from enginehouse.tensorrt_library import LIBRARIES, LibraryName, TensorRTLibrary
from optimizer.build.tensorrt_network import empty_network, saved_graph
from optimizer.build.unsupported_node import UnsupportedNode
from optimizer.graph.graph import Graph

# TensorRT has no others; it would take FP64 as FP32 without a word.
_SERVED = ("FP32", "FP16", "BF16", "INT8", "UINT8", "INT32", "INT64", "BOOL")

_ASSERTION = re.compile(r'^Assertion failed: (?:.* && )?"?(?P<text>.*?)"?$')
_API_ERROR = re.compile(r"Error Code \d+: [^(]*\((?P<text>.*?)(?:\. In \w+ at \S+)?\)$")


def unsupported_nodes(graph: Graph, library: LibraryName) -> tuple[UnsupportedNode, ...]:
    """List everything in a graph that the library cannot build; empty if it can build all of it.

    Raises:
        MissingExtra: the library is not installed.
        EngineFailed: it cannot be used on this machine.
    """
    table = LIBRARIES[library]
    network = empty_network(table, f"asking {table.title} what it supports")
    with tempfile.TemporaryDirectory() as folder:
        path = saved_graph(graph, Path(folder))
        is_supported = network.parser.supports_model_v2(path.read_bytes(), str(path))
    found = tuple(dict.fromkeys((*foreign_types(graph, table), *errors_of(network.parser, table))))
    if not is_supported and not found:
        return (UnsupportedNode("", "model", f"{table.title} refuses it and does not say why"),)
    return found


def foreign_types(graph: Graph, library: TensorRTLibrary) -> tuple[UnsupportedNode, ...]:
    """Inputs and outputs of types that TensorRT has not, whatever its parser makes of them."""
    kinds = (("input", graph.inputs), ("output", graph.outputs))
    return tuple(
        UnsupportedNode(spec.name, kind, f"{library.title} has no {spec.dtype.name}; it has {', '.join(_SERVED)}")
        for kind, specs in kinds
        for spec in specs
        if spec.dtype.name not in _SERVED
    )


def errors_of(parser: Any, library: TensorRTLibrary) -> tuple[UnsupportedNode, ...]:
    """What a parser complained of, in words."""
    errors = (parser.get_error(index) for index in range(parser.num_errors))
    return tuple(
        UnsupportedNode(error.node_name(), error.node_operator(), _reason(error, library))
        for error in errors
        if error.node_operator()  # without one it is about an input, which is judged by its type
    )


def _reason(error: Any, library: TensorRTLibrary) -> str:
    operator, text = error.node_operator(), error.desc()
    if "Plugin not found" in text:
        return f"{library.title} knows no operator and no plugin {operator}"
    if text.strip() == "false":
        return f"{library.title} has no {operator}"
    lines = [line for line in text.splitlines() if "cudaError" not in line and not line.startswith("Invalid Node")]
    return "; ".join(filter(None, map(_without_source_places, lines))) or error.code().name


def _without_source_places(line: str) -> str:
    for pattern in (_API_ERROR, _ASSERTION):
        if match := pattern.search(line.strip()):
            return match["text"]
    return line.strip()
