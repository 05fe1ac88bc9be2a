"""From a version on disk to engines that have proved themselves on this machine. Blocks; called off the loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.engine import Engine
from enginehouse.errors import InvalidInput, NotSupported, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, Evidence, read_evidence
from enginehouse.hardware import threads_per_instance
from enginehouse.model_config import read_config, refuse_unhonoured
from enginehouse.onnxruntime_engine import CPU_PROVIDER
from enginehouse.open_engine import open_engine
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup
from enginehouse.repository import Repository, check_digests, check_file_digests
from service.golden import check_golden
from service.served_model import LoadedVersion

CUDA_PROVIDER = "CUDAExecutionProvider"

# Each holds a copy of the model; beyond the cores of any machine they only cost memory.
MAX_INSTANCES = 256
_KINDS = (ModelInstanceGroup.KIND_AUTO, ModelInstanceGroup.KIND_CPU, ModelInstanceGroup.KIND_GPU)
_THREADS_PARAMETER = "intra_op_thread_count"


@dataclass(slots=True, frozen=True)
class _EngineFile:
    path: Path
    platform: str
    is_built_engine: bool


class VersionLoader:
    """Opens versions of one repository.

    Args:
        on_golden_failure: told of each version whose engine did not give the recorded answers.
    """

    def __init__(self, repository: Repository, on_golden_failure: Callable[[str, int], None]) -> None:
        self.repository = repository
        self._on_golden_failure = on_golden_failure

    def config(self, name: str) -> ModelConfig:
        """Read a model's configuration; raises `NotSupported` for what would not be honoured."""
        config = read_config(self.repository.model_directory(name))
        refuse_unhonoured(config)
        return config

    def load(self, config: ModelConfig, version: int) -> LoadedVersion:
        """Open the engine that was published, on every instance.

        Raises:
            Error: whatever is wrong with the files, the configuration or the engine; nothing stays open.
        """
        directory = self.repository.version_directory(config.name, version)
        evidence = read_evidence(directory)
        if evidence is not None:
            check_digests(directory, evidence)
            record = evidence.engine_file("chosen")
            file = _EngineFile(directory / record.file, record.platform, is_built_engine=True)
        else:
            files = [path.name for path in directory.iterdir()]
            config = _copy(config)
            complete_platform(config, files)
            file = _EngineFile(directory / config.default_model_filename, config.platform, is_built_engine=False)
        return self._open(config, version, file, evidence, "")

    def load_fallback(self, config: ModelConfig, version: int, reason: str) -> LoadedVersion:
        """Open the engine that runs anywhere, because the published one failed for `reason`.

        Raises:
            Error: there is no fallback, or it is no better.
        """
        directory = self.repository.version_directory(config.name, version)
        evidence = read_evidence(directory)
        if evidence is None:
            raise NotSupported(f"model '{config.name}' version {version} has no evidence, and so no fallback engine.")
        record = evidence.engine_file("fallback")
        check_file_digests(directory, evidence, (record.file, GOLDEN_FILE))
        file = _EngineFile(directory / record.file, record.platform, is_built_engine=False)
        return self._open(config, version, file, evidence, f"{record.file} serves because: {reason}")

    def _open(
        self, config: ModelConfig, version: int, file: _EngineFile, evidence: Evidence | None, degraded: str
    ) -> LoadedVersion:
        started = time.monotonic()
        config = _copy(config)
        if not config.backend:
            config.platform = config.platform or file.platform
        complete_platform(config, [file.path.name])
        engines: list[Engine] = []
        try:
            engines.append(open_engine(file.path, file.platform, _threads(config), _providers(config)[0]))
            complete_config(config, engines[0].inputs, engines[0].outputs)
            for provider in _providers(config)[1:]:
                engines.append(open_engine(file.path, file.platform, _threads(config), provider))  # noqa: PERF401
            if evidence is not None:
                for engine in engines:
                    check_golden(engine, file.path.parent, evidence.golden, file.is_built_engine)
        except BaseException as problem:
            if isinstance(problem, VerifyFailed):
                self._on_golden_failure(config.name, version)
            for engine in engines:
                engine.close()
            raise
        return LoadedVersion(config, version, engines, time.monotonic() - started, degraded)


def _copy(config: ModelConfig) -> ModelConfig:
    copy = ModelConfig()
    copy.CopyFrom(config)
    return copy


def _providers(config: ModelConfig) -> list[str]:
    """One execution provider for each instance, in the order of the instance groups."""
    count = sum(max(1, group.count) for group in config.instance_group)
    if count > MAX_INSTANCES:
        raise InvalidInput(
            f"model '{config.name}': instance_group asks for {count} instances; at most {MAX_INSTANCES} are allowed."
        )
    providers: list[str] = []
    for group in config.instance_group or [ModelInstanceGroup(count=1)]:
        if group.kind not in _KINDS:
            raise NotSupported(
                f"model '{config.name}': instance_group kind {group.kind} is not supported; give KIND_CPU or KIND_GPU."
            )
        if any(device != 0 for device in group.gpus):
            raise NotSupported(
                f"model '{config.name}': instance_group asks for GPUs {list(group.gpus)}; only GPU 0 is used yet."
            )
        on_gpu = group.kind == ModelInstanceGroup.KIND_GPU or bool(group.gpus)
        providers += [CUDA_PROVIDER if on_gpu else CPU_PROVIDER] * max(1, group.count)
    return providers


def _threads(config: ModelConfig) -> int:
    """The thread policy, unless the model's own parameters say otherwise."""
    text = config.parameters[_THREADS_PARAMETER].string_value if _THREADS_PARAMETER in config.parameters else ""
    if text in ("", "0"):
        return threads_per_instance(len(_providers(config)))
    if not text.isdecimal() or int(text) < 1:
        raise NotSupported(f"model '{config.name}': {_THREADS_PARAMETER} is '{text}'; expected 1 or more.")
    return int(text)
