"""Join the rows of several requests into one batch, and slice the outputs back: once in, once out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest

from enginehouse.dtype import Array, array_from_bytes, bytes_from_array
from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors, TensorSpec
from service.request import InferRequest, WireTensor


@dataclass(slots=True, frozen=True)
class Layout:
    """How a model's tensors look to clients, and to its engine where that differs (`reshape`).

    Attributes:
        inputs: specs as clients see them, with a leading -1 where the model batches.
        outputs: the same for outputs.
        engine_shapes: full engine shapes of the inputs that are reshaped on their way in.
        engine_output_shapes: full engine shapes of the outputs that are reshaped on their way out.
        has_batch_axis: whether the leading dimension counts rows.
        ragged: inputs whose requests may differ in shape; they are joined into one flat vector.
        optional: inputs that a request may leave out.
        scattered: outputs that hold the rows of all requests flat, each with the input whose shapes cut them.
        takes_any_bytes: elements of BYTES need not be UTF-8 text.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engine_shapes: Mapping[str, tuple[int, ...]]
    has_batch_axis: bool
    engine_output_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ragged: frozenset[str] = frozenset()
    scattered: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    takes_any_bytes: bool = False

    @property
    def has_fixed_rows(self) -> bool:
        """Whether every row of a batch has the same size, so that the time of one batch foretells another's."""
        skip = 1 if self.has_batch_axis else 0
        return all(-1 not in spec.shape[skip:] and spec.dtype.size_bytes for spec in self.inputs)


def join(requests: Sequence[InferRequest], layout: Layout) -> Tensors:
    """Make one feed per input; the requests agree in their inputs and in every dimension but the first, save for
    ragged inputs.

    A single request is viewed in place; several are copied once.
    """
    feeds: dict[str, Array] = {}
    for position, tensor in enumerate(requests[0].inputs):
        if tensor.name in layout.ragged:
            feeds[tensor.name] = _flat([request.inputs[position] for request in requests])
            continue
        if len(requests) == 1:
            data, shape = tensor.data, tensor.shape
        else:
            parts = [request.inputs[position] for request in requests]
            data = b"".join(part.data for part in parts)
            shape = (sum(part.shape[0] for part in parts), *tensor.shape[1:])
        array = array_from_bytes(data, tensor.dtype, shape)
        if tensor.name in layout.engine_shapes:
            spec = next(spec for spec in layout.inputs if spec.name == tensor.name)
            array = array.reshape(carried(shape, spec.shape, layout.engine_shapes[tensor.name]))
        feeds[tensor.name] = array
    return feeds


def split(
    outputs: Tensors, requests: Sequence[InferRequest], rows: Sequence[int], layout: Layout
) -> list[tuple[WireTensor, ...]]:
    """Cut each output along its first dimension into the answers, in the order of the requests.

    Raises:
        EngineFailed: an output is missing, or does not have one row per input row.
    """
    wanted = [request.outputs or tuple(spec.name for spec in layout.outputs) for request in requests]
    needed = set().union(*wanted)
    pieces: dict[str, list[WireTensor]] = {}
    for spec in layout.outputs:
        if spec.name not in needed:
            continue
        if spec.name in layout.scattered:
            pieces[spec.name] = _scattered(outputs, spec, requests, layout.scattered[spec.name])
        else:
            pieces[spec.name] = _slices(_checked(outputs, spec, sum(rows), layout), spec, rows, layout)
    return [tuple(pieces[name][position] for name in names) for position, names in enumerate(wanted)]


def _flat(parts: Sequence[WireTensor]) -> Array:
    """Lay the elements of all requests one behind the other."""
    data = parts[0].data if len(parts) == 1 else b"".join(part.data for part in parts)
    return array_from_bytes(data, parts[0].dtype, (sum(math.prod(part.shape) for part in parts),))


def _scattered(outputs: Tensors, spec: TensorSpec, requests: Sequence[InferRequest], source: str) -> list[WireTensor]:
    """Cut an output by the shapes of an input: each open dimension has the size that the input has at its place."""
    array = _given(outputs, spec).reshape(-1)
    shapes = [
        tuple(have if want == -1 else want for want, have in zip_longest(spec.shape, tensor.shape[: len(spec.shape)]))
        for request in requests
        for tensor in request.inputs
        if tensor.name == source
    ]
    ends = list(accumulate(math.prod(shape) for shape in shapes))
    if ends[-1] != array.size:
        raise EngineFailed(
            f"output '{spec.name}' has {array.size} elements; {ends[-1]} expected for the shapes of input '{source}'."
        )
    return [
        WireTensor(spec.name, spec.dtype, shape, bytes_from_array(array[end - math.prod(shape) : end], spec.dtype))
        for shape, end in zip(shapes, ends, strict=True)
    ]


def carried(shape: Sequence[int], pattern: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Fill the open dimensions of a reshape, in order, with the sizes that the open dimensions have here."""
    sizes = iter([size for size, open_or_size in zip(shape, pattern, strict=True) if open_or_size == -1])
    return tuple(next(sizes) if size == -1 else size for size in target)


def _given(outputs: Tensors, spec: TensorSpec) -> Array:
    array = outputs.get(spec.name)
    if array is None:
        raise EngineFailed(f"the engine gave no output '{spec.name}'; it gave {list(outputs)}.")
    if spec.dtype.size_bytes and array.dtype != spec.dtype.numpy:
        raise EngineFailed(f"output '{spec.name}' is {array.dtype}; {spec.dtype.name} expected.")
    return array


def _checked(outputs: Tensors, spec: TensorSpec, rows: int, layout: Layout) -> Array:
    array = _given(outputs, spec)
    if layout.has_batch_axis and (array.ndim == 0 or array.shape[0] != rows):
        raise EngineFailed(
            f"output '{spec.name}' has shape {list(array.shape)} for {rows} rows; its first dimension must be {rows}."
        )
    pattern = layout.engine_output_shapes.get(spec.name, spec.shape)
    if array.ndim != len(pattern):
        raise EngineFailed(f"output '{spec.name}' has shape {list(array.shape)}; {list(pattern)} expected.")
    if spec.name not in layout.engine_output_shapes:
        return array
    shape = carried(array.shape, pattern, spec.shape)
    try:
        return array.reshape(shape)
    except ValueError:
        raise EngineFailed(f"output '{spec.name}' has shape {list(array.shape)}; {list(pattern)} expected.") from None


def _slices(array: Array, spec: TensorSpec, rows: Sequence[int], layout: Layout) -> list[WireTensor]:
    if len(rows) == 1 or not layout.has_batch_axis:
        return [WireTensor(spec.name, spec.dtype, array.shape, bytes_from_array(array, spec.dtype))]
    tail = array.shape[1:]
    whole = memoryview(array.tobytes()) if spec.dtype.size_bytes else None
    row_bytes = array.nbytes // array.shape[0]
    answers: list[WireTensor] = []
    start = 0
    for count in rows:
        end = start + count
        data: bytes | memoryview
        if whole is None:
            data = bytes_from_array(array[start:end], spec.dtype)
        else:
            data = whole[start * row_bytes : end * row_bytes]
        answers.append(WireTensor(spec.name, spec.dtype, (count, *tail), data))
        start = end
    return answers
