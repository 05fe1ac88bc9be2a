"""Weights that lie in files of their own, beside the model: only inside the model's own folder, checked before a read.

An ONNX file names its weight files itself, so a hostile one could name any file of the machine.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from enginehouse.errors import InvalidInput


def load_external_data(model: onnx.ModelProto, folder: Path) -> None:
    """Read the weights that `model` keeps in other files into `model`, which the caller has just parsed.

    Raises:
        InvalidInput: a file that is missing, too short, or outside `folder`; then nothing outside it was opened.
    """
    external = [tensor for tensor in tensors_of(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        _check_location(tensor, folder)
    for tensor in external:
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
            tensor.ClearField("data_location")
            onnx.numpy_helper.to_array(tensor)  # as many bytes as the shape says
        except (OSError, ValueError, onnx.checker.ValidationError) as problem:
            raise InvalidInput(f"the weights of '{tensor.name}' cannot be read from {folder}: {problem}.") from problem
        del tensor.external_data[:]


def tensors_of(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and in functions too."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of_graph(graph)


def _check_location(tensor: onnx.TensorProto, folder: Path) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    parts = PurePosixPath(location).parts
    outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).is_absolute() or ".." in parts
    target = folder / location
    if not parts or outside or not target.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(
            f"the weights of '{tensor.name}' lie at '{location}', which is not a file inside the model's own folder; "
            "put the file beside the model and name it by its relative path."
        )
    if not target.is_file():
        raise InvalidInput(f"the weights of '{tensor.name}' lie at '{location}', and there is no file {target}.")
