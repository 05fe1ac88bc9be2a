"""Which operators and versions of ONNX are known here: to ONNX, and to ONNX Runtime."""

import re
from collections.abc import Iterable, Iterator

import onnx

from optimizer.graph.nodes import DEFAULT_DOMAINS, operator_name

_FAR_FUTURE = 1_000_000
_LIMITS = {
    "opset": re.compile(r"domain ai\.onnx is till opset (\d+)"),
    "IR version": re.compile(r"max supported IR version: (\d+)"),
}


def unknown_operators(model: onnx.ModelProto) -> list[str]:
    """Every operator of the model that neither ONNX (at the model's opset), nor ONNX Runtime, nor the model defines."""
    functions = {(function.domain, function.name) for function in model.functions}
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    unknown = _unknown(model.graph.node, opsets, functions)
    for function in model.functions:
        own_opsets = {entry.domain: entry.version for entry in function.opset_import}
        unknown |= _unknown(function.node, own_opsets, functions)
    return sorted(unknown)


def newest_readable(kind: str) -> int | None:
    """Newest `opset` or `IR version` that the installed ONNX Runtime reads; None if it does not tell."""
    import onnxruntime

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([], "probe", [value], [value])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    model.ir_version = 8
    if kind == "opset":
        model.opset_import[0].version = _FAR_FUTURE
    else:
        model.ir_version = _FAR_FUTURE
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as problem:  # the library's exceptions have no common base below Exception
        found = _LIMITS[kind].search(str(problem))
        return int(found.group(1)) if found else None
    return None


def _unknown(nodes: Iterable[onnx.NodeProto], opsets: dict[str, int], functions: set[tuple[str, str]]) -> set[str]:
    runtime = _runtime_operators()
    unknown = set()
    for node in _all_nodes(nodes):
        domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
        if (node.domain, node.op_type) in functions or (domain and (domain, node.op_type) in runtime):
            continue
        version = opsets.get(domain, opsets.get("ai.onnx", 1) if not domain else 1)
        if not _is_defined(node.op_type, domain, version):
            unknown.add(operator_name(node))
    return unknown


def _is_defined(op_type: str, domain: str, version: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, version, domain).deprecated
    except onnx.defs.SchemaError:
        return False


def _runtime_operators() -> set[tuple[str, str]]:
    """Operators that ONNX Runtime adds; its list is not public interface, so it may be missing."""
    try:
        from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
    except ImportError:
        return set()
    return {(schema.domain, schema.name) for schema in get_all_operator_schema()}


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)
