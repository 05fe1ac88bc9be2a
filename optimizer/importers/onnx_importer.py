"""Import an ONNX file: everything that could fail later is found here, and said in one sentence."""

from pathlib import Path

import onnx

from enginehouse.errors import Error, InvalidInput, Unsupported
from optimizer.graph.graph import INLINE_LIMIT_BYTES, Graph, load_graph
from optimizer.graph.run import why_not_runnable
from optimizer.importers.batch_axis import find_batch_axis, open_batch_axis
from optimizer.importers.normal_form import normal_form
from optimizer.importers.operators import newest_readable, unknown_operators


def import_onnx(path: Path, open_batch: bool = False) -> Graph:
    """Read and check a model.

    Args:
        path: the ONNX file; weights in files of their own lie in its folder.
        open_batch: make a model that was exported for a fixed batch size take any number of rows.

    Raises:
        InvalidInput: the file is missing, damaged, not an ONNX model, or contradicts itself.
        Unsupported: it is newer than ONNX Runtime, uses operators that nobody here knows, or cannot be opened.
    """
    try:
        return _import(path, open_batch)
    except (Error, MemoryError):
        raise
    except Exception as problem:  # a damaged file can break its reader anywhere, in any way
        raise InvalidInput(f"{path} is damaged or not an ONNX model: {_first_line(problem)}.") from problem


def _import(path: Path, open_batch: bool) -> Graph:
    graph = load_graph(path)
    _check_versions(graph, path)
    unknown = unknown_operators(graph.model)
    if unknown:
        raise Unsupported(
            f"{path} uses operators that neither ONNX opset {graph.opset} nor ONNX Runtime has: {', '.join(unknown)}. "
            "Export it with standard operators, or with the custom ones as functions of the model."
        )
    graph = _checked(graph, path)
    reason = why_not_runnable(graph)
    if reason is not None:
        raise Unsupported(f"{path} cannot be run here: {reason}")
    return open_batch_axis(graph) if open_batch else find_batch_axis(graph)


def _check_versions(graph: Graph, path: Path) -> None:
    if not graph.model.opset_import and not graph.model.functions:
        raise InvalidInput(f"{path} is damaged or not an ONNX model: it does not say which opset it uses.")
    for kind, found in (("opset", graph.opset), ("IR version", graph.model.ir_version)):
        newest = newest_readable(kind)
        if newest is not None and found > newest:
            raise Unsupported(
                f"{path} has {kind} {found}; the installed ONNX Runtime reads up to {newest}. "
                f"Export the model with {kind} {newest} or older, or install a newer ONNX Runtime."
            )


def _checked(graph: Graph, path: Path) -> Graph:
    """Infer first: the checker wants a shape for every output, which exporters leave out and inference finds."""
    try:
        graph = normal_form(graph)
        _check_interface(graph, path)
        if graph.size_bytes <= INLINE_LIMIT_BYTES:
            onnx.checker.check_model(graph.model, full_check=True)
        else:
            onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise InvalidInput(f"{path} is not a valid ONNX model: {_first_line(problem)}.") from problem
    return graph


def _check_interface(graph: Graph, path: Path) -> None:
    if not graph.inputs or not graph.outputs:
        raise InvalidInput(f"{path} has no {'outputs' if graph.inputs else 'inputs'}; a model to be served needs both.")
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        if not value.type.tensor_type.HasField("shape"):
            raise InvalidInput(
                f"'{value.name}' of {path} declares no shape, and none can be inferred; declare its rank at least, "
                "with open dimensions where sizes vary."
            )


def _first_line(problem: Exception) -> str:
    return str(problem).strip().partition("\n")[0].rstrip(".")
