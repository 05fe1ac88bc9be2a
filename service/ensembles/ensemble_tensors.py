"""Tensors of an ensemble: what each end says of one, and how one end's shape becomes the other's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from enginehouse.dtype import DType
from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.model_config import dtype_from_config, engine_shape
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInput, ModelOutput
from enginehouse.tensor import shape_fits
from service.request import WireTensor
from service.scheduling.rows import carried

TensorsByName = Mapping[str, WireTensor | None]
"""By name in the ensemble; None for an optional one that was not given."""


@dataclass(slots=True, frozen=True)
class EnsembleTensor:
    """What one end says: the model, the type, the dimensions without the batch's, and whether there is a batch."""

    model: str
    dtype: DType
    dims: tuple[int, ...]
    has_batch_axis: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.has_batch_axis else self.dims


@dataclass(slots=True, frozen=True)
class Reshape:
    """The same elements under another shape; both shapes are full, and have their open dimensions in the same order."""

    tensor: str
    before: tuple[int, ...]
    after: tuple[int, ...]

    def of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The new shape; raises `EngineFailed` for one that is not as it must be before."""
        if not shape_fits(shape, self.before):
            raise EngineFailed(f"'{self.tensor}' has shape {list(shape)}; {list(self.before)} expected.")
        return carried(shape, self.before, self.after)


@dataclass(slots=True, frozen=True)
class Feed:
    """A tensor of the ensemble on its way into a model, or out of the ensemble.

    Attributes:
        name: what the receiver calls it.
        tensor: what the ensemble calls it.
        dims: the receiver's dimensions without the batch's.
        wants_batch: whether the receiver's leading dimension counts rows.
        comes_batched: whether the sender's does.
        reshape: what clients see instead, of an output that is reshaped.
    """

    name: str
    tensor: str
    dims: tuple[int, ...]
    wants_batch: bool
    comes_batched: bool
    reshape: Reshape | None = None

    def fed(self, tensor: WireTensor | None) -> WireTensor | None:
        """The tensor under the receiver's name, its shape `fitted`; None for one that was not given.

        Raises:
            EngineFailed: it cannot be reshaped.
        """
        if tensor is None:
            return None
        return WireTensor(self.name, tensor.dtype, self.fitted(tensor.shape), tensor.data)

    def fitted(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape as the receiver wants it.

        A single row gains or loses its batch dimension between a model that batches and one that does not; whatever
        else differs is for the receiver to refuse.

        Raises:
            EngineFailed: it cannot be reshaped.
        """
        fitted = self._with_or_without_row(shape)
        return fitted if self.reshape is None else self.reshape.of(fitted)

    def _with_or_without_row(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.wants_batch and not self.comes_batched and shape_fits(shape, self.dims):
            return (1, *shape)
        if self.comes_batched and not self.wants_batch and shape[:1] == (1,) and not shape_fits(shape, self.dims):
            return shape[1:]
        return shape


def tensors_of(config: ModelConfig, tensors: Iterable[ModelInput | ModelOutput]) -> dict[str, EnsembleTensor]:
    """What a model says of its inputs or outputs, as its clients see them."""
    batches = config.max_batch_size > 0
    return {
        tensor.name: EnsembleTensor(config.name, dtype_from_config(tensor), tuple(tensor.dims), batches)
        for tensor in tensors
    }


def inner_tensors_of(config: ModelConfig, tensors: Iterable[ModelInput | ModelOutput]) -> dict[str, EnsembleTensor]:
    """What the steps of an ensemble see of its own inputs or outputs: `reshape` where it is given, else `dims`."""
    batches = config.max_batch_size > 0
    return {
        tensor.name: EnsembleTensor(
            config.name, dtype_from_config(tensor), engine_shape(config, tensor)[int(batches) :], batches
        )
        for tensor in tensors
    }


def reshapes_of(config: ModelConfig, tensors: Iterable[ModelInput | ModelOutput]) -> dict[str, Reshape]:
    """From what clients see of an ensemble's own tensors to what its steps see, where they differ."""
    batch = (-1,) if config.max_batch_size > 0 else ()
    return {
        tensor.name: Reshape(tensor.name, (*batch, *tensor.dims), engine_shape(config, tensor))
        for tensor in tensors
        if tensor.HasField("reshape")
    }


def agree(ensemble: str, name: str, sent: EnsembleTensor, received: EnsembleTensor) -> None:
    """Check that both ends of a tensor may mean the same; open dimensions are left to the request.

    Raises:
        InvalidInput: they differ in type, or in a dimension that both name. A model without a batch dimension may
            name that of another one's rows.
    """
    where = f"in ensemble '{ensemble}', ensemble tensor '{name}'"
    if sent.dtype is not received.dtype:
        raise InvalidInput(
            f"{where}: inconsistent data type: {sent.dtype.config_name} is inferred from model '{sent.model}' while "
            f"{received.dtype.config_name} is inferred from model '{received.model}'."
        )
    if not (_match(sent.dims, received.dims) or _match(sent.shape, received.shape)):
        raise InvalidInput(
            f"{where}: inconsistent shape: {list(sent.shape)} is inferred from model '{sent.model}' while "
            f"{list(received.shape)} is inferred from model '{received.model}'."
        )


def _match(left: tuple[int, ...], right: tuple[int, ...]) -> bool:
    return len(left) == len(right) and all(-1 in pair or pair[0] == pair[1] for pair in zip(left, right, strict=True))
