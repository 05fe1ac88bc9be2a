"""Convert one `.pt2` program to ONNX; the only file of the optimizer that imports PyTorch, and only when it runs.

    python -m optimizer.importers.torch_export SOURCE TARGET

Run by `torch_importer.py` in a process of its own. A refusal is an exit code and a line that starts with `REASON`.
"""

import logging
import operator
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

EXIT_INVALID_INPUT = 3
EXIT_UNSUPPORTED = 4
REASON = "refused: "
OPSET = 20
# A protobuf message ends at 2 GiB; the graph, its names and shapes need room beside the weights.
MAX_EMBEDDED_BYTES = 1_500_000_000


def main(source: Path, target: Path) -> None:
    program = load(source)
    refuse_training_mode(program, source)
    converted = convert(program, source)
    without_traces(converted.model)
    embedded = sum(value.const_value.nbytes for value in converted.model.graph.initializers.values())
    try:
        converted.save(target, external_data=embedded > MAX_EMBEDDED_BYTES)
    except OSError as error:
        refuse(EXIT_INVALID_INPUT, f"'{target}' cannot be written: {error.strerror or error}.")


def load(source: Path) -> Any:
    import torch

    heard = LastException()
    logging.getLogger("torch.export").addHandler(heard)  # PyTorch logs the cause and raises without it
    try:
        return torch.export.load(source)
    except Exception as error:
        unknown = unknown_operators(source)
        cause = f"this PyTorch has no operator {', '.join(unknown)}." if unknown else None
        cause = cause or first_sentence(heard.exception or error)
        refuse(EXIT_INVALID_INPUT, f"'{source}' cannot be loaded as a PyTorch program: {cause}")


def unknown_operators(source: Path) -> list[str]:
    """All operators at once that the program calls and this PyTorch does not have, such as an extension's own."""
    import torch

    try:
        with zipfile.ZipFile(source) as archive:
            graphs = [
                archive.read(name).decode(errors="replace") for name in archive.namelist() if name.endswith(".json")
            ]
    except zipfile.BadZipFile:
        return []
    called = {name for graph in graphs for name in re.findall(r'"target": ?"torch\.ops\.([\w.]+)"', graph)}
    unknown = []
    for name in sorted(called):
        try:
            operator.attrgetter(name)(torch.ops)
        except AttributeError:
            unknown.append(name)
    return unknown


def refuse_training_mode(program: Any, source: Path) -> None:
    """Batch normalization and dropout of a model in training answer differently on every call."""
    training = {node.target._schema.name for node in program.graph.nodes if is_training(node)}
    if training:
        refuse(
            EXIT_INVALID_INPUT,
            f"'{source}' was exported in training mode ({', '.join(sorted(training))}); call model.eval() first.",
        )


def is_training(node: Any) -> bool:
    if not hasattr(node.target, "_schema"):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    has_effect = given.get("p", given.get("dropout")) != 0.0
    return has_effect and (given.get("train") is True or given.get("training") is True)


def convert(program: Any, source: Path) -> Any:
    import torch

    try:
        return torch.onnx.export(program, (), opset_version=OPSET, dynamo=True, verbose=False)
    except Exception as error:
        missing = missing_operators(program)
        cause = f"ONNX has no operator for {', '.join(missing)}." if missing else first_sentence(error)
        refuse(EXIT_UNSUPPORTED, f"'{source}' cannot be converted to ONNX: {cause}")


def missing_operators(program: Any) -> list[str]:
    """All operators at once that the exporter has no translation for; empty when this PyTorch does not tell."""
    try:
        from torch.onnx._internal.exporter import _fx_passes, _registration

        registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
        called = {node.target for node in _fx_passes.decompose_with_registry(program, registry).graph.nodes}
        return sorted(str(op) for op in called if hasattr(op, "_schema") and not registry.is_registered(op))
    except Exception:
        return []


def without_traces(model: Any) -> None:
    """Take out what the exporter notes for debugging: stack traces with the paths of the machine it ran on."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    for graph in graphs:
        nodes = list(graph.all_nodes())
        values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
        for part in (model, graph, *nodes, *values):
            part.metadata_props.clear()


def first_sentence(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of exceptions, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip() or type(error).__name__
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".") + "."


def data_file(target: Path) -> Path:
    """Where weights lie that are too large for the ONNX file."""
    return target.with_name(f"{target.name}.data")


def refuse(code: int, reason: str) -> NoReturn:
    print(f"{REASON}{reason}", file=sys.stderr)
    sys.exit(code)


class LastException(logging.Handler):
    """Keeps the exception of the last record that carried one."""

    exception: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1]:
            self.exception = record.exc_info[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
