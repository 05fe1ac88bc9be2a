"""Runs of an engine before its model is ready, on samples that the configuration describes (`model_warmup`)."""

import math
from pathlib import Path

import numpy as np

from enginehouse.dtype import Array, DType, array_from_bytes, bytes_from_array, dtype_from_config_name
from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import DataType, ModelWarmup
from enginehouse.ragged_config import derived_from_config
from enginehouse.tensor import Tensors, TensorSpec
from service.admission import Admission
from service.loaded import LoadedVersion
from service.request import InferRequest, WireTensor
from service.scheduling.ragged import BatchInputs
from service.scheduling.rows import Layout, join
from service.served_model import layout_from_config

FOLDER = "warmup"
_TEXT_LENGTH = 8


def warm_up(loaded: LoadedVersion) -> None:
    """Run every sample on every engine, as often as it says.

    Raises:
        InvalidInput: a sample that the model cannot take.
        NotSupported: the engine takes requests, not tensors.
        EngineFailed: the engine failed on a sample.
    """
    for sample in loaded.config.model_warmup:
        try:
            if not all(hasattr(engine, "run") for engine in loaded.engines):
                raise NotSupported("the model takes requests, not tensors; let its own start warm it up.")
            feeds = _feeds(sample, loaded)
            for engine in loaded.engines:
                for _ in range(max(1, sample.count)):
                    engine.run(feeds)
        except Error as problem:
            raise type(problem)(f"model_warmup '{sample.name}': {problem}") from problem


def _feeds(sample: ModelWarmup, loaded: LoadedVersion) -> Tensors:
    """What the engine is fed: as if `batch_size` clients had each sent the sample, joined to one batch.

    A sample of a sequence may also hold what no client sends, controls and states; what it leaves out is zero.
    """
    config = loaded.config
    rows = sample.batch_size or 1
    if rows > max(1, config.max_batch_size):
        raise InvalidInput(f"batch_size is {rows}; max_batch_size is {config.max_batch_size}.")
    layout = layout_from_config(config)
    folder = loaded.directory.parent / FOLDER
    tensors = {name: _tensor(name, sample.inputs[name], layout, folder) for name in sample.inputs}
    unsent = _unsent(loaded, layout)
    request = InferRequest(config.name, "", tuple(tensor for name, tensor in tensors.items() if name not in unsent))
    Admission(config.name, layout, config.max_batch_size).check(request)
    requests = [request] * rows
    return {
        **{name: _unsent_array(spec, tensors.get(name), rows) for name, spec in unsent.items()},
        **join(requests, layout),
        **BatchInputs(derived_from_config(config))(requests),
    }


def _unsent(loaded: LoadedVersion, layout: Layout) -> dict[str, TensorSpec]:
    """Inputs of the engine that the server fills in for a sequence."""
    if not loaded.config.HasField("sequence_batching"):
        return {}
    sent = {spec.name for spec in layout.inputs}
    return {spec.name: spec for spec in loaded.engines[0].inputs if spec.name not in sent}


def _unsent_array(spec: TensorSpec, given: WireTensor | None, rows: int) -> Array:
    if given is None:
        shape = tuple(rows if size == -1 else size for size in spec.shape)
        return array_from_bytes(_zeros(spec.dtype, shape), spec.dtype, shape)
    shape = (rows * given.shape[0], *given.shape[1:])
    return array_from_bytes(bytes(given.data) * rows, given.dtype, shape)


def _tensor(name: str, given: ModelWarmup.Input, layout: Layout, folder: Path) -> WireTensor:
    """One client's tensor."""
    kind = DataType.DESCRIPTOR.values_by_number.get(given.data_type)
    dtype = dtype_from_config_name(kind.name if kind else str(given.data_type))
    if any(size < 0 for size in given.dims):
        raise InvalidInput(f"input '{name}' has dims {list(given.dims)}; a sample needs the size of each dimension.")
    shape = (*((1,) if layout.has_batch_axis else ()), *given.dims)
    match given.WhichOneof("input_data_type"):
        case "zero_data":
            data = _zeros(dtype, shape)
        case "random_data":
            data = _random(dtype, shape)
        case "input_data_file":
            data = _read(folder, given.input_data_file)
        case _:
            raise InvalidInput(f"input '{name}' has no data; give zero_data, random_data or input_data_file.")
    array_from_bytes(data, dtype, shape)
    return WireTensor(name, dtype, shape, data)


def _zeros(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Zeros; texts are empty."""
    return bytes(math.prod(shape) * (dtype.size_bytes or 4))


def _random(dtype: DType, shape: tuple[int, ...]) -> bytes:
    """Fractions from 0 to 1; whole numbers are 0 or 1, which every table of a model has a row for."""
    source = np.random.default_rng(0)
    if not dtype.size_bytes:
        letters = source.integers(ord("a"), ord("z") + 1, (math.prod(shape), _TEXT_LENGTH), np.uint8)
        return bytes_from_array(np.array([bytes(row) for row in letters], object), dtype)
    is_fraction = dtype.name in ("FP16", "BF16", "FP32", "FP64")
    values = source.random(shape) if is_fraction else source.integers(0, 2, shape)
    return values.astype(dtype.numpy).tobytes()


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise InvalidInput(f"input_data_file '{name}' is no path inside the folder {FOLDER} of the model.")
    try:
        return path.read_bytes()
    except OSError as problem:
        raise InvalidInput(f"input_data_file {path} cannot be read: {problem.strerror}.") from problem
