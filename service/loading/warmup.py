"""Runs of an engine before its model is ready, on samples that the configuration describes (`model_warmup`)."""

import math
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore

import numpy as np

from enginehouse.dtype import Array, DType, array_from_bytes, bytes_from_array, dtype_from_config_name
from enginehouse.engine import Engine
from enginehouse.errors import Error, InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import DataType, ModelWarmup
from enginehouse.python_engine import Ask, Job, PythonEngine, Reply
from enginehouse.python_model import Position
from enginehouse.ragged_config import derived_from_config
from enginehouse.sequence_config import controls_from_config
from enginehouse.tensor import Tensors, TensorSpec
from service.admission import Admission
from service.loaded import LoadedVersion
from service.request import InferRequest, SequencePosition, WireTensor
from service.scheduling.ragged import BatchInputs
from service.scheduling.rows import Layout, join
from service.sequences.sequence_computation import control_array
from service.served_model import layout_from_config

FOLDER = "warmup"
_TEXT_LENGTH = 8
# A sample for a Python model is a whole sequence, and one that no client has.
_ALONE = SequencePosition(0, is_start=True, is_end=True)


@dataclass(slots=True, frozen=True)
class _Sample:
    """What so many clients would each have sent, and what only the server gives for a sequence."""

    request: InferRequest
    rows: int
    unsent: dict[str, WireTensor]


def warm_up(loaded: LoadedVersion, ask: Ask | None = None) -> None:
    """Run every sample on every engine, as often as it says.

    Args:
        loaded: what is to be warm before it serves.
        ask: lets a Python model ask the models that are ready already.

    Raises:
        Error: a sample that the model cannot take, or that it fails on; the text names the sample.
    """
    for engine in loaded.engines:
        if ask is not None and isinstance(engine, PythonEngine):
            engine.connect(ask)
    for given in loaded.config.model_warmup:
        try:
            sample = _sample(given, loaded)
            for engine in loaded.engines:
                for _ in range(max(1, given.count)):
                    _run(engine, sample, loaded)
        except Error as problem:
            raise type(problem)(f"model_warmup '{given.name}': {problem}") from problem


def _run(engine: Engine, sample: _Sample, loaded: LoadedVersion) -> None:
    if isinstance(engine, PythonEngine):
        _ask_together(engine, sample, loaded)
    elif hasattr(engine, "run"):
        engine.run(_feeds(sample, loaded))
    else:
        raise NotSupported("the model takes requests, not tensors; let its own start warm it up.")


def _ask_together(engine: PythonEngine, sample: _Sample, loaded: LoadedVersion) -> None:
    """Ask a Python model as so many clients would, and wait until each has its last response."""
    layout = layout_from_config(loaded.config)
    is_sequence = loaded.config.HasField("sequence_batching")
    ended = Semaphore(0)
    problems: list[Error] = []

    def take(reply: Reply) -> None:
        if reply.error is not None:
            problems.append(reply.error)
        reply.taken()
        if reply.is_last:
            ended.release()

    job = Job(
        feeds={**join([sample.request], layout), **_controls(sample, loaded)},
        on_reply=take,
        outputs=[spec.name for spec in layout.outputs],
        sequence=Position(_ALONE.id, _ALONE.is_start, _ALONE.is_end) if is_sequence else None,
    )
    engine.execute([job] * sample.rows)
    for _ in range(sample.rows):
        ended.acquire()
    if problems:
        raise problems[0]


def _controls(sample: _Sample, loaded: LoadedVersion) -> Tensors:
    """What the server says of the place in the sequence; the sample may say something else."""
    config = loaded.config
    if not config.HasField("sequence_batching"):
        return {}
    arrays = {one.name: control_array(one, [_ALONE], config.max_batch_size > 0) for one in controls_from_config(config)}
    given = {name: array_from_bytes(one.data, one.dtype, tuple(one.shape)) for name, one in sample.unsent.items()}
    return {**arrays, **given}


def _sample(given: ModelWarmup, loaded: LoadedVersion) -> _Sample:
    """Check a sample as a client's request; it may hold what no client sends, controls and states of a sequence."""
    config = loaded.config
    rows = given.batch_size or 1
    if rows > max(1, config.max_batch_size):
        raise InvalidInput(f"batch_size is {rows}; max_batch_size is {config.max_batch_size}.")
    layout = layout_from_config(config)
    folder = loaded.directory.parent / FOLDER
    unsent = _unsent(loaded, layout)
    tensors = {name: _tensor(name, given.inputs[name], layout, folder) for name in given.inputs}
    request = InferRequest(config.name, "", tuple(tensor for name, tensor in tensors.items() if name not in unsent))
    Admission(config.name, layout, config.max_batch_size).check(request)
    return _Sample(request, rows, {name: tensor for name, tensor in tensors.items() if name in unsent})


def _feeds(sample: _Sample, loaded: LoadedVersion) -> Tensors:
    """What the engine is fed: the requests of all clients joined to one batch; what is not given is zero."""
    layout = layout_from_config(loaded.config)
    unsent = _unsent(loaded, layout)
    requests = [sample.request] * sample.rows
    return {
        **{name: _unsent_array(spec, sample.unsent.get(name), sample.rows) for name, spec in unsent.items()},
        **join(requests, layout),
        **BatchInputs(derived_from_config(loaded.config))(requests),
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
