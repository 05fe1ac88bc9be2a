"""Open one engine file on several instances, and let each prove itself before it serves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from enginehouse.config_completion import LENIENT, Completion, complete_config, complete_platform
from enginehouse.engine import Engine, optional_inputs
from enginehouse.engine_choice import needs_gpu
from enginehouse.evidence import EngineRecord
from enginehouse.memory_return import return_memory
from enginehouse.onnxruntime_engine import CPU_PROVIDER, CUDA_PROVIDER
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup
from service.loading.engine_doors import Opening, acquaint, instances_elsewhere, open_instance
from service.loading.golden import check_golden

_LARGE_BYTES = 1 << 24


@dataclass(slots=True, frozen=True)
class EngineFile:
    """What engines are opened from.

    Attributes:
        platform: what the file is for a client; a variant of a published engine says what the published one is.
        record: how it is opened and what it must answer; None for a file without evidence.
        size_bytes: of the file and of those beside it that hold its weights.
        memory_bytes: how much a process was measured to grow by one such engine; None where it was not.
    """

    path: Path
    platform: str
    record: EngineRecord | None = None
    size_bytes: int = 0
    memory_bytes: int | None = None


def open_proven(
    file: EngineFile,
    config: ModelConfig,
    count: int,
    threads: int,
    on_gpu: bool | None,
    completion: Completion = LENIENT,
    meeting_place: MeetingPlace | None = None,
) -> tuple[ModelConfig, list[Engine]]:
    """Open a file `count` times; complete a copy of the configuration from it.

    Raises:
        Error: the file, the configuration or an answer to a golden sample is wrong; nothing stays open.
    """
    completed = ModelConfig()
    completed.CopyFrom(config)
    _settle_platform(completed, file)
    opening = _opening(file, threads, on_gpu, meeting_place)
    engines: list[Engine] = []
    try:
        engines.append(open_instance(completed, opening, 0))
        first = engines[0]
        complete_config(completed, first.inputs, first.outputs, completion, optional_inputs(first))
        for instance in range(1, count):
            _return_memory_of(file)
            engines.append(open_instance(completed, opening, instance))
        if file.record is not None:
            for engine in engines:
                check_golden(engine, file.path.parent, file.record)
        acquaint(completed, engines)
    except BaseException:
        close_all(engines)
        raise
    return completed, engines


def _return_memory_of(file: EngineFile) -> None:
    """A library reads a large file into memory that it then frees: without this each engine would need it beside."""
    if file.size_bytes >= _LARGE_BYTES:
        return_memory()


def close_all(engines: Sequence[Engine]) -> None:
    for engine in engines:
        engine.close()


def _settle_platform(config: ModelConfig, file: EngineFile) -> None:
    if not config.backend:
        config.platform = config.platform or file.platform
    complete_platform(config, [file.path.name])
    if file.record is None or not needs_gpu(file.record):
        return
    if not config.instance_group:
        config.instance_group.add()
    for group in config.instance_group:
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            group.kind = ModelInstanceGroup.KIND_GPU


def count_to_open(
    file: EngineFile,
    config: ModelConfig,
    count: int,
    threads: int,
    on_gpu: bool | None,
    meeting_place: MeetingPlace | None,
) -> int:
    """How many of `count` engines are not in memory yet; another server may have opened some that this one shares."""
    settled = ModelConfig()
    settled.CopyFrom(config)
    _settle_platform(settled, file)
    return count - instances_elsewhere(settled, _opening(file, threads, on_gpu, meeting_place), count)


def _opening(file: EngineFile, threads: int, on_gpu: bool | None, meeting_place: MeetingPlace | None) -> Opening:
    record = file.record
    provider = CUDA_PROVIDER if on_gpu else CPU_PROVIDER
    if record is None:
        return Opening(file.path, file.platform, threads, provider, {}, bool(on_gpu), meeting_place)
    if record.provider and needs_gpu(record):
        provider = record.provider
    settings = dict(record.settings)
    return Opening(file.path, record.platform, threads, provider, settings, bool(on_gpu), meeting_place)
