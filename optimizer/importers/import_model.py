"""From a model file of any known framework to a checked graph."""

from importlib import import_module
from pathlib import Path

from enginehouse.errors import InvalidInput
from optimizer.graph.graph import Graph
from optimizer.importers.onnx_importer import import_onnx

# Suffix to the function `(source, target) -> None` that writes the model as an ONNX file; empty for ONNX itself.
CONVERTERS = {
    ".onnx": "",
    ".pt2": "optimizer.importers.torch_importer:onnx_from_pt2",
}


def import_model(path: Path, workdir: Path, open_batch: bool = False) -> Graph:
    """Convert a model to ONNX where it is something else, and import that.

    Args:
        path: the model; its suffix says what it is.
        workdir: an existing folder for the converted file.
        open_batch: make a model that was exported for a fixed batch size take any number of rows.

    Raises:
        InvalidInput: an unknown suffix, or a file that is missing, damaged or not what its suffix says.
        Unsupported: the model cannot be converted, or is nothing that ONNX Runtime can run.
        MissingExtra: the library that reads this kind of model is not installed.
    """
    suffix = path.suffix.lower()
    if suffix not in CONVERTERS:
        raise InvalidInput(f"{path} is of no known kind; expected a file ending in {' or '.join(CONVERTERS)}.")
    if not CONVERTERS[suffix]:
        return import_onnx(path, open_batch)
    module, _, function = CONVERTERS[suffix].partition(":")
    target = workdir / f"{path.stem}.onnx"
    getattr(import_module(module), function)(path, target)
    return import_onnx(target, open_batch)
