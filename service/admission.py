"""Check a request against what its model takes, before anything is queued."""

from collections.abc import Hashable

from enginehouse.dtype import array_from_bytes
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec, shape_fits
from service.request import InferRequest, WireTensor
from service.scheduling.rows import Layout


class Admission:
    """What one model version takes.

    Args:
        model: its name, for messages.
        layout: its tensors as clients see them.
        max_batch_size: rows that one request may hold; 0 for a model without a batch dimension.
    """

    def __init__(self, model: str, layout: Layout, max_batch_size: int) -> None:
        self._model = model
        self._inputs = {spec.name: spec for spec in layout.inputs}
        self._order = tuple(self._inputs)
        self._outputs = frozenset(spec.name for spec in layout.outputs)
        self._max_batch_size = max_batch_size
        self._ragged = layout.ragged
        self._optional = layout.optional
        self._takes_any_bytes = layout.takes_any_bytes

    def check(self, request: InferRequest) -> tuple[int, Hashable]:
        """Put the inputs in the model's order; tell the rows, and the key under which requests may share a batch.

        Raises:
            InvalidInput: naming the first tensor that does not fit, what it is and what the model takes.
        """
        request.inputs = inputs = self._ordered(request)
        for tensor in inputs:
            self._check_tensor(tensor, self._inputs[tensor.name])
        for name in request.outputs:
            if name not in self._outputs:
                known = ", ".join(sorted(self._outputs))
                raise InvalidInput(f"unexpected inference output '{name}' for model '{self._model}'; it has {known}.")
        if len(set(request.outputs)) != len(request.outputs):
            raise InvalidInput(f"an output of model '{self._model}' is requested more than once.")
        if not self._max_batch_size:
            return 1, None
        shapes = tuple(tensor.shape[1:] for tensor in inputs if tensor.name not in self._ragged)
        # Only requests that give the same optional inputs have rows to join.
        key = (shapes, tuple(tensor.name for tensor in inputs)) if self._optional else shapes
        return self._rows(inputs), key

    def _ordered(self, request: InferRequest) -> tuple[WireTensor, ...]:
        inputs = request.inputs
        if len(inputs) == 1 and inputs[0].name in self._inputs and len(self._order) == 1:
            return inputs
        given = {tensor.name: tensor for tensor in inputs}
        unexpected = [name for name in given if name not in self._inputs]
        if unexpected:
            raise InvalidInput(
                f"unexpected inference input '{unexpected[0]}' for model '{self._model}'; "
                f"it takes {', '.join(self._order)}."
            )
        missing = [name for name in self._order if name not in given and name not in self._optional]
        if missing or len(inputs) != len(given):
            raise InvalidInput(
                f"expected {len(self._order)} inputs but got {len(inputs)} inputs for model '{self._model}'. "
                f"Got {[tensor.name for tensor in inputs]}, missing {missing}; each must be given once."
            )
        return tuple(given[name] for name in self._order if name in given)

    def _check_tensor(self, tensor: WireTensor, spec: TensorSpec) -> None:
        if tensor.dtype is not spec.dtype:
            raise InvalidInput(
                f"inference input '{spec.name}' data-type is '{tensor.dtype.name}', "
                f"but model '{self._model}' expects '{spec.dtype.name}'."
            )
        if not shape_fits(tensor.shape, spec.shape):
            raise InvalidInput(
                f"unexpected shape for input '{spec.name}' for model '{self._model}'. "
                f"Expected {list(spec.shape)}, got {list(tensor.shape)}."
            )
        if spec.dtype.size_bytes:
            expected = spec.dtype.size_bytes
            for size in tensor.shape:
                expected *= size
            if len(tensor.data) != expected:
                raise InvalidInput(
                    f"unexpected size for input '{spec.name}' for model '{self._model}': "
                    f"expected {expected} bytes for {list(tensor.shape)}, got {len(tensor.data)}."
                )
        else:
            self._check_text(tensor)

    def _check_text(self, tensor: WireTensor) -> None:
        """A BYTES element that the engine could not take must be found here: inside a batch it would fail its mates."""
        items = array_from_bytes(tensor.data, tensor.dtype, tensor.shape).ravel().tolist()
        if self._takes_any_bytes:
            return
        for item in items:
            try:
                item.decode()
            except UnicodeDecodeError as problem:
                raise InvalidInput(
                    f"an element of input '{tensor.name}' for model '{self._model}' is not UTF-8: {problem}."
                ) from problem

    def _rows(self, inputs: tuple[WireTensor, ...]) -> int:
        if not inputs:
            raise InvalidInput(f"model '{self._model}' needs at least one input, whose rows it counts; got none.")
        rows = inputs[0].shape[0]
        for tensor in inputs[1:]:
            if tensor.shape[0] != rows:
                raise InvalidInput(
                    f"input '{tensor.name}' has batch size {tensor.shape[0]}, input '{inputs[0].name}' has {rows}; "
                    f"all inputs of model '{self._model}' must have the same."
                )
        if not 1 <= rows <= self._max_batch_size:
            raise InvalidInput(
                f"inference request batch-size is {rows}, must be 1 to {self._max_batch_size} for '{self._model}'."
            )
        return rows
