"""What `python -m optimizer inspect FILE` prints: the file as it is, checked no further than it takes to read it."""

from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from optimizer.graph.graph import Graph, load_graph


def inspect_table(path: Path) -> Group:
    """Describe an ONNX file.

    Raises:
        InvalidInput: no such file, not an ONNX model, or one of other things than tensors.
    """
    graph = load_graph(path)
    return Group(_facts(path, graph), _tensors(graph), _operators(graph))


def _facts(path: Path, graph: Graph) -> Table:
    table = Table("model", escape(str(path)))
    table.add_row("size", f"{graph.size_bytes:,} bytes")
    table.add_row("parameters", f"{graph.parameter_count:,}")
    table.add_row("nodes", f"{graph.node_count:,}")
    opsets = (f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in graph.model.opset_import)
    table.add_row("opset", ", ".join(opsets))
    table.add_row("IR version", str(graph.model.ir_version))
    table.add_row("producer", escape(_producer(graph)))
    table.add_row("batch axis", "open" if graph.batch_axis_open else "none")
    table.add_row("fingerprint", graph.fingerprint())
    return table


def _producer(graph: Graph) -> str:
    return f"{graph.model.producer_name} {graph.model.producer_version}".strip() or "not given"


def _tensors(graph: Graph) -> Table:
    table = Table("tensor", "name", "datatype", "shape")
    for kind, specs in (("input", graph.inputs), ("output", graph.outputs)):
        for spec in specs:
            shape = ", ".join("open" if size == -1 else str(size) for size in spec.shape)
            table.add_row(kind, escape(spec.name), spec.dtype.name, escape(f"[{shape}]"))
    return table


def _operators(graph: Graph) -> Table:
    table = Table("operator", "nodes")
    table.columns[1].justify = "right"
    for name, count in graph.op_counts().items():
        table.add_row(escape(name), str(count))
    return table
