"""What ONNX Runtime and OpenVINO cannot run of a graph, node by node, on the CPU."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx

from enginehouse.engine import Engine
from enginehouse.errors import Error, MissingExtra
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.openvino_engine import OpenVinoEngine
from optimizer.build.unsupported_node import UnsupportedNode
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import DEFAULT_DOMAINS, operator_name

# `(operator, domain)` to the versions of the operator, first and last, that a kernel serves.
Kernels = Mapping[tuple[str, str], list[tuple[int, int]]]

_NO_END = 2**31 - 1
# Made a weight as the file is read.
_WITHOUT_KERNEL = frozenset({"Constant"})
_UNCONVERTED = re.compile(r"No conversion rule found for operations: (?P<names>[^\n]*)")


def unsupported_by_onnxruntime(graph: Graph, path: Path) -> tuple[UnsupportedNode, ...]:
    """Nothing if ONNX Runtime opens the file, else every node without a kernel on the CPU, or what it says itself.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
    """
    refusal = _refusal(OnnxRuntimeEngine, path, "ONNX Runtime")
    if not refusal:
        return ()
    kernels = _kernels(path)
    opsets = {entry.domain: entry.version for entry in graph.model.opset_import}
    own = {(function.name, function.domain) for function in graph.model.functions}
    found = tuple(
        UnsupportedNode(_name(node), operator_name(node), "ONNX Runtime has no kernel for it on the CPU")
        for node in _nodes(graph.model.graph)
        if (node.op_type, node.domain) not in own and not _has_kernel(node, opsets, kernels)
    )
    return found or refusal


def unsupported_by_openvino(graph: Graph, path: Path) -> tuple[UnsupportedNode, ...]:
    """Nothing if OpenVINO opens the file, else every node that it has no conversion for, or what it says itself.

    Raises:
        MissingExtra: OpenVINO is not installed.
    """
    refusal = _refusal(OpenVinoEngine, path, "OpenVINO")
    match = _UNCONVERTED.search(refusal[0].reason) if refusal else None
    if match is None:
        return refusal
    names = {re.sub(r"-\d+$", "", name.strip()) for name in match["names"].split(",")}
    found = tuple(
        UnsupportedNode(_name(node), operator_name(node), "OpenVINO has no conversion for it")
        for node in _nodes(graph.model.graph)
        if operator_name(node) in names
    )
    return found or refusal


def _refusal(open_engine: Callable[[Path], Engine], path: Path, title: str) -> tuple[UnsupportedNode, ...]:
    try:
        open_engine(path).close()
    except MissingExtra:
        raise
    except Error as problem:
        return (UnsupportedNode(path.name, "model", f"{title} refuses it: {problem}"),)
    return ()


def _kernels(path: Path) -> Kernels:
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as library
    except ImportError as problem:
        raise MissingExtra("onnxruntime", "cpu", f"checking {path.name} for ONNX Runtime") from problem
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kernel in library.get_all_opkernel_def():
        if kernel.provider == CPU_PROVIDER:
            found.setdefault((kernel.op_name, kernel.domain), []).append(kernel.version_range)
    return found


def _has_kernel(node: onnx.NodeProto, opsets: Mapping[str, int], kernels: Kernels) -> bool:
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    known = kernels.get((node.op_type, domain), [])
    opset = opsets.get(node.domain, opsets.get(domain, 1))
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return bool(known)
    has_body = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
    if has_body or node.op_type in _WITHOUT_KERNEL:
        return True
    since = schema.since_version
    return any(first == since or (first <= since <= last and last != _NO_END) for first, last in known)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _name(node: onnx.NodeProto) -> str:
    return node.name or next(iter(node.output), "")
