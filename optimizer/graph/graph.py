"""The ONNX graph that every step of the optimizer reads, and its way from and to a file."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from enginehouse.dtype import dtype_from_onnx
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.graph.external_data import load_external_data, tensors_of
from optimizer.graph.nodes import DEFAULT_DOMAINS, operator_name

# A protobuf message ends at 2 GiB; some room is left for what is not weights.
INLINE_LIMIT_BYTES = 1_900_000_000


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX model in memory. Nobody edits `model` in place: a pass works on a copy."""

    model: onnx.ModelProto

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model must be fed; an initializer that is listed as an input (before IR 4) is a weight."""
        return tuple(_spec(value) for value in self._fed_values())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_spec(value) for value in self.model.graph.output)

    @property
    def node_count(self) -> int:
        """Nodes of the main graph; those of subgraphs are not counted."""
        return len(self.model.graph.node)

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return next((entry.version for entry in self.model.opset_import if entry.domain in DEFAULT_DOMAINS), 1)

    @property
    def parameter_count(self) -> int:
        return sum(prod(tensor.dims) for tensor in self.model.graph.initializer)

    @property
    def size_bytes(self) -> int:
        """Size of the model with its weights, as it would be serialized."""
        weights = sum(len(tensor.raw_data) for tensor in tensors_of(self.model))
        return weights if weights > INLINE_LIMIT_BYTES else self.model.ByteSize()

    @property
    def batch_axis_open(self) -> bool:
        """Whether every input and output begins with an open dimension, one symbol where symbols are given."""
        values = [*self._fed_values(), *self.model.graph.output]
        leading = [_leading_dimension(value) for value in values]
        symbols = {dimension.dim_param for dimension in leading if dimension is not None} - {""}
        is_open = all(dimension is not None and not dimension.HasField("dim_value") for dimension in leading)
        return bool(values) and is_open and len(symbols) <= 1

    def op_counts(self) -> dict[str, int]:
        """Count the operators of the main graph, sorted by name; foreign ones carry their domain."""
        counts = Counter(operator_name(node) for node in self.model.graph.node)
        return dict(sorted(counts.items()))

    def fingerprint(self) -> str:
        """SHA-256 of the model, in hex: the same for the same graph and weights."""
        state = hashlib.sha256()
        if self.size_bytes <= INLINE_LIMIT_BYTES:
            state.update(self.model.SerializeToString(deterministic=True))
            return state.hexdigest()
        skeleton = self.copy()
        for tensor in tensors_of(skeleton):
            state.update(tensor.raw_data)
            tensor.ClearField("raw_data")
        state.update(skeleton.SerializeToString(deterministic=True))
        return state.hexdigest()

    def copy(self) -> onnx.ModelProto:
        """A model that the caller may edit."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return model

    def save(self, path: Path, inline_limit_bytes: int = INLINE_LIMIT_BYTES) -> None:
        """Write one file, or for weights beyond the limit a second one beside it, `<name>.data`."""
        if self.size_bytes <= inline_limit_bytes:
            onnx.save_model(self.model, str(path))
            return
        path.with_name(f"{path.name}.data").unlink(missing_ok=True)
        onnx.save_model(self.copy(), str(path), save_as_external_data=True, location=f"{path.name}.data")

    def _fed_values(self) -> Iterator[onnx.ValueInfoProto]:
        graph = self.model.graph
        weights = {tensor.name for tensor in graph.initializer}
        weights |= {sparse.values.name for sparse in graph.sparse_initializer}
        return (value for value in graph.input if value.name not in weights)


def load_graph(path: Path) -> Graph:
    """Read an ONNX file with its weights, which lie in it or in its own folder; nothing else is checked.

    Raises:
        InvalidInput: no such file, not an ONNX model, or weights that are missing or outside the folder.
    """
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except OSError as problem:
        raise InvalidInput(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    except (DecodeError, ValueError, RuntimeError) as problem:
        raise InvalidInput(f"{path} is damaged or not an ONNX model: {problem}.") from problem
    if not _is_text(model):
        raise InvalidInput(f"{path} is damaged or not an ONNX model: it holds names that are not text.")
    if not model.graph.node and not model.graph.output:
        raise InvalidInput(f"{path} is damaged or not an ONNX model: it has no nodes and no outputs.")
    load_external_data(model, path.parent)
    return Graph(model)


def _is_text(message: Message) -> bool:
    """Whether every string below is one: protobuf hands on those that are not UTF-8 as bytes."""
    for field, value in message.ListFields():
        items = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(item, str) for item in items):
            return False
        if field.type == FieldDescriptor.TYPE_MESSAGE and not all(map(_is_text, items)):
            return False
    return True


def open_shape(dimensions: Sequence[onnx.TensorShapeProto.Dimension]) -> tuple[int, ...]:
    """A declared shape with -1 for every open dimension."""
    return tuple(dimension.dim_value if dimension.HasField("dim_value") else -1 for dimension in dimensions)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "nothing"
        raise InvalidInput(f"'{value.name}' is of {kind.removesuffix('_type')} type; only tensors can be served.")
    tensor = value.type.tensor_type
    try:
        dtype = dtype_from_onnx(tensor.elem_type)
    except InvalidInput as problem:
        names = {code: name for name, code in onnx.TensorProto.DataType.items()}
        kind = names.get(tensor.elem_type, f"of element type {tensor.elem_type}")
        raise InvalidInput(
            f"'{value.name}' is {kind}, which no client can send or read; cast it inside the model."
        ) from problem
    return TensorSpec(value.name, dtype, open_shape(tensor.shape.dim))


def _leading_dimension(value: onnx.ValueInfoProto) -> onnx.TensorShapeProto.Dimension | None:
    dimensions = value.type.tensor_type.shape.dim
    return dimensions[0] if dimensions else None
