"""Find, name or open the batch axis of a model, and prove it by running.

A model has a batch axis where every input and output begins with an open dimension and the rows do not see each
other. Where the symbols of the dimensions say so they are believed; otherwise three rows must give what each of them
gives alone.
"""

import onnx

from enginehouse.errors import EngineFailed, Unsupported
from enginehouse.tensor import Tensors
from optimizer.data.synthetic import synthetic_feeds
from optimizer.graph.equal_outputs import difference
from optimizer.graph.graph import Graph
from optimizer.graph.nodes import int_attribute
from optimizer.graph.run import run_graph
from optimizer.passes.graph_editor import GraphEditor

SYMBOL = "batch"
_PROOF_ROWS = 3
_SEED = 20


def find_batch_axis(graph: Graph) -> Graph:
    """Name the batch axis where all leading dimensions are open but not all of the same name.

    Where the rows turn out to depend on each other, the outputs get names of their own, so that nobody batches them.
    """
    leading = _leading(graph)
    if not _all_open(leading) or _one_symbol(leading):
        return graph
    named = _with_leading(graph, SYMBOL)
    if why_not_batched(named) is None:
        return named
    return _with_separate_outputs(graph)


def open_batch_axis(graph: Graph) -> Graph:
    """Open the batch axis of a model that was exported for one fixed batch size.

    Raises:
        Unsupported: the leading dimensions are not one number, or the opened model does not treat rows alike.
    """
    if graph.batch_axis_open:
        return graph
    leading = _leading(graph)
    fixed = {one.dim_value for one in leading if one is not None and one.HasField("dim_value")}
    if None in leading or len(fixed) != 1:
        specs = ", ".join(map(str, (*graph.inputs, *graph.outputs)))
        raise Unsupported(f"the batch axis cannot be opened: the leading dimensions are not all one number in {specs}.")
    (rows,) = fixed
    opened = _with_leading(_with_open_reshapes(graph, rows), SYMBOL)
    reason = why_not_batched(opened) or _why_not_same(graph, opened, rows)
    if reason is not None:
        raise Unsupported(f"the batch axis cannot be opened: {reason}. Export the model with an open batch axis.")
    return opened


def why_not_batched(graph: Graph) -> str | None:
    """Run three rows together and each alone; say what differs, or None."""
    together = synthetic_feeds(graph.inputs, _PROOF_ROWS, batch_axis_open=True, seed=_SEED)
    alone = [_row(together, row) for row in range(_PROOF_ROWS)]
    try:
        batched, *singles = run_graph(graph, [together, *alone], optimize=False)
    except EngineFailed as problem:
        return f"it does not run with batch {_PROOF_ROWS} and batch 1: {problem}"
    for name, array in batched.items():
        if not array.ndim or len(array) != _PROOF_ROWS:
            return f"output '{name}' has shape {list(array.shape)} for {_PROOF_ROWS} rows"
    for row, single in enumerate(singles):
        reason = difference(single, _row(batched, row))
        if reason is not None:
            return f"a row among others is not answered as it is alone: {reason}"
    return None


def _why_not_same(source: Graph, opened: Graph, rows: int) -> str | None:
    feeds = synthetic_feeds(opened.inputs, rows, batch_axis_open=True, seed=_SEED)
    (expected,) = run_graph(source, [feeds], optimize=False)
    (found,) = run_graph(opened, [feeds], optimize=False)
    return difference(expected, found)


def _row(tensors: Tensors, row: int) -> Tensors:
    return {name: array[row : row + 1] for name, array in tensors.items()}


def _values(model: onnx.ModelProto, fed: set[str]) -> list[onnx.ValueInfoProto]:
    return [*(value for value in model.graph.input if value.name in fed), *model.graph.output]


def _leading(graph: Graph) -> list[onnx.TensorShapeProto.Dimension | None]:
    shapes = [value.type.tensor_type.shape for value in _values(graph.model, {spec.name for spec in graph.inputs})]
    return [shape.dim[0] if shape.dim else None for shape in shapes]


def _all_open(leading: list[onnx.TensorShapeProto.Dimension | None]) -> bool:
    return bool(leading) and all(one is not None and not one.HasField("dim_value") for one in leading)


def _one_symbol(leading: list[onnx.TensorShapeProto.Dimension | None]) -> bool:
    symbols = {one.dim_param for one in leading if one is not None}
    return len(symbols) == 1 and "" not in symbols


def _with_leading(graph: Graph, symbol: str) -> Graph:
    model = graph.copy()
    for value in _values(model, {spec.name for spec in graph.inputs}):
        value.type.tensor_type.shape.dim[0].dim_param = symbol
    del model.graph.value_info[:]
    return Graph(model)


def _with_separate_outputs(graph: Graph) -> Graph:
    model = graph.copy()
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = f"{value.name}_length"
    inputs = {spec.name for spec in graph.inputs}
    for value in _values(model, inputs)[: len(inputs)]:
        dimension = value.type.tensor_type.shape.dim[0]
        dimension.dim_param = dimension.dim_param or f"{value.name}_length"
    return Graph(model)


def _with_open_reshapes(graph: Graph, rows: int) -> Graph:
    """Let each Reshape to a fixed number of rows take as many as come."""
    editor = GraphEditor(graph)
    for node in editor.find("Reshape"):
        target = editor.constant(node.input[1]) if len(node.input) > 1 else None
        if target is None or not target.size or target[0] != rows or int_attribute(node, "allowzero", 0):
            continue
        before = editor.shape(node.input[0])
        keeps_rows = before is not None and bool(before) and before[0] == rows
        if not keeps_rows and -1 in target:
            continue
        opened = target.copy()
        opened[0] = 0 if keeps_rows else -1
        reshaped = onnx.NodeProto()
        reshaped.CopyFrom(node)
        reshaped.input[1] = editor.add_weight(f"{node.input[1]}_open", opened)
        editor.replace([node], reshaped)
    return editor.rewritten().graph
