"""The classification extension: an output as its highest values, each with its index, and its label if it has one.

An element of the answer is `value:index` or `value:index:label`, as the protocol's extension writes it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from enginehouse.dtype import DTYPES, Array, array_from_bytes, bytes_from_array, dtype_from_config_name
from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import DataType, ModelConfig
from service.request import WireTensor

_UNORDERED = ("BYTES", "BOOL")


def read_labels(config: ModelConfig, model_directory: Path) -> dict[str, tuple[str, ...]]:
    """Read the label file of each output that names one, a label a line.

    Raises:
        InvalidInput: a file that is not there, is no text, or lies outside of the model's directory.
    """
    root = model_directory.resolve()
    labels: dict[str, tuple[str, ...]] = {}
    for output in config.output:
        if not output.label_filename:
            continue
        path = (root / output.label_filename).resolve()
        if not path.is_relative_to(root):
            raise InvalidInput(
                f"label_filename '{output.label_filename}' of output '{output.name}' leaves the directory of model "
                f"'{config.name}'; put the file there."
            )
        try:
            labels[output.name] = tuple(path.read_text().splitlines())
        except (OSError, UnicodeDecodeError) as problem:
            raise InvalidInput(
                f"label_filename '{output.label_filename}' of output '{output.name}' cannot be read: {problem}."
            ) from problem
    return labels


def check_classes(config: ModelConfig, wanted: Mapping[str, int]) -> None:
    """Raise `InvalidInput` for an output whose values have no order; what a model does not have is found elsewhere."""
    for output in config.output:
        dtype = dtype_from_config_name(DataType.Name(output.data_type))
        if output.name in wanted and dtype.name in _UNORDERED:
            raise InvalidInput(
                f"class result not available for output '{output.name}' due to unsupported type '{dtype.name}'."
            )


def classify(tensor: WireTensor, count: int, labels: Sequence[str], is_batched: bool) -> WireTensor:
    """Turn an output into its `count` highest classes, for each row by itself where the model batches."""
    values = array_from_bytes(tensor.data, tensor.dtype, tensor.shape)
    has_rows = is_batched and values.ndim > 0 and values.shape[0] > 0
    rows = values.reshape(values.shape[0], -1) if has_rows else values.reshape(1, -1)
    classes = min(count, rows.shape[1])
    items = np.array([_class(row, index, labels) for row in rows for index in _highest(row, classes)], dtype=object)
    shape = (len(rows), classes) if has_rows else (classes,)
    text = DTYPES["BYTES"]
    return WireTensor(tensor.name, text, shape, bytes_from_array(items, text))


def _highest(row: Array, count: int) -> list[int]:
    """Indices of the highest values, highest first; the first of equals leads."""
    backwards = np.argsort(row[::-1], kind="stable")[::-1][:count]
    return [len(row) - 1 - int(position) for position in backwards]


def _class(row: Array, index: int, labels: Sequence[str]) -> str:
    value = f"{float(row[index]):f}" if row.dtype.kind not in "iu" else str(int(row[index]))
    label = labels[index] if index < len(labels) else ""
    return f"{value}:{index}:{label}" if label else f"{value}:{index}"
