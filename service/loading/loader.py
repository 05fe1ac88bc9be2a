"""From a version on disk to engines that have proved themselves on this machine. Blocks; called off the loop."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from enginehouse.config_completion import LENIENT, Completion, complete_platform, model_file
from enginehouse.engine import Engine
from enginehouse.engine_choice import rank_engines, reasons
from enginehouse.errors import NotSupported, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, EngineRecord, Evidence, read_evidence
from enginehouse.hardware import this_hardware
from enginehouse.model_config import read_config, refuse_unhonoured
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.python_engine import Ask
from enginehouse.repository import check_digests, check_file_digests, files_of_engine
from service.codecs.classification import read_labels
from service.ensembles.ensemble_rules import complete_ensemble, is_ensemble
from service.loaded import LoadedVersion
from service.loading.load_threads import at_low_priority
from service.loading.memory_estimate import MemoryBudget, needed_bytes
from service.loading.opening import EngineFile, close_all, count_to_open, open_proven
from service.loading.placement import Placement, placement_from_config
from service.loading.repositories import Repositories
from service.loading.warmup import warm_up
from service.statistics.calibration_drift import calibrated_inputs

_log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class _Contenders:
    """What may serve on one kind of device.

    Attributes:
        files: best first.
        passed_over: why the version's other engines cannot run there.
        is_last_resort: nothing but the fallback can.
    """

    files: Sequence[EngineFile]
    passed_over: str = ""
    is_last_resort: bool = False


@dataclass(slots=True)
class _Opened:
    """What serves on one kind of device; `degraded` says why it is not the best, `note` what else there is."""

    file: EngineFile
    engines: list[Engine]
    degraded: str = ""
    note: str = ""


# What may serve, given whether it must run on a GPU or must not; None leaves it open.
_Contend = Callable[[bool | None], _Contenders]


class VersionLoader:
    """Opens versions of the repositories.

    Args:
        repository: where models lie.
        on_golden_failure: told of each version whose engine did not give the recorded answers.
        completion: how much of a configuration is filled in.
        budget: lets a load begin only if there is memory for it.
        config_name: of the configuration to use where a model has several; empty for `config.pbtxt`.
        meeting_place: where servers of this machine find engines that they share.
        ask: lets a Python model ask other models while it is warmed up; None where there are none.
    """

    def __init__(
        self,
        repository: Repositories,
        on_golden_failure: Callable[[str, int], None],
        completion: Completion = LENIENT,
        budget: MemoryBudget | None = None,
        config_name: str = "",
        meeting_place: MeetingPlace | None = None,
        ask: Ask | None = None,
    ) -> None:
        self.repository = repository
        self._budget = budget or MemoryBudget(lambda: None, None)
        self._config_name = config_name
        self._meeting_place = meeting_place
        self._ask = ask
        self._completion = completion
        self._on_golden_failure = on_golden_failure

    def config(self, name: str) -> ModelConfig:
        """Read a model's configuration; raises `NotSupported` for what would not be honoured."""
        config = read_config(self.repository.model_directory(name), self._config_name)
        refuse_unhonoured(config)
        return config

    def load(self, config: ModelConfig, version: int) -> LoadedVersion:
        """Open the best engine that holds here, on every instance.

        One that cannot be opened or gives other answers makes way for the next, and the version is degraded. The
        fallback serves only where no other engine can run at all.

        Raises:
            Error: whatever is wrong with the files, the configuration or the best engine; nothing stays open.
        """
        directory = self.repository.version_directory(config.name, version)
        if is_ensemble(config):
            return _without_engine(config, version, directory)
        evidence = read_evidence(directory)
        if evidence is not None:
            at_low_priority(check_digests, directory, evidence)
            loaded = self._open(config, version, lambda on_gpu: _contenders(directory, evidence, on_gpu))
            return replace(loaded, calibrated=calibrated_inputs(evidence, loaded.records, loaded.config))
        completed = ModelConfig()
        completed.CopyFrom(config)
        complete_platform(completed, [path.name for path in directory.iterdir()])
        return self._open(completed, version, lambda on_gpu: _Contenders([_file(completed, directory, on_gpu)]))

    def load_fallback(self, config: ModelConfig, version: int, reason: str) -> LoadedVersion:
        """Open the engine that runs anywhere, because the others failed for `reason`.

        Raises:
            Error: there is no fallback, or it is no better.
        """
        directory = self.repository.version_directory(config.name, version)
        evidence = read_evidence(directory)
        if evidence is None:
            raise NotSupported(f"model '{config.name}' version {version} has no evidence, and so no fallback engine.")
        record = evidence.engine_file("fallback")
        names = (*files_of_engine(evidence, record), GOLDEN_FILE)
        at_low_priority(check_file_digests, directory, evidence, names)
        file = _published(directory, evidence, record, record.platform)
        loaded = self._open(config, version, lambda _: _Contenders([file]))
        return replace(loaded, degraded=f"{record.file} serves because: {reason}")

    def _open(self, config: ModelConfig, version: int, contend: _Contend) -> LoadedVersion:
        """Open every instance; those on one kind of device share an engine file."""
        started = time.monotonic()
        labels = read_labels(config, self.repository.version_directory(config.name, version).parent)
        placement = placement_from_config(config)
        opened: dict[bool | None, _Opened] = {}
        try:
            for on_gpu in dict.fromkeys(placement.on_gpu):
                config, opened[on_gpu] = self._open_first(contend(on_gpu), config, version, placement, on_gpu)
        except BaseException:
            for group in opened.values():
                close_all(group.engines)
            raise
        degraded, note = (
            "; ".join(dict.fromkeys(filter(None, (getattr(group, name) for group in opened.values()))))
            for name in ("degraded", "note")
        )
        engines = [opened[on_gpu].engines.pop(0) for on_gpu in placement.on_gpu]
        records = [group.file.record for group in opened.values() if group.file.record is not None]
        directory = self.repository.version_directory(config.name, version)
        loaded = LoadedVersion(config, version, directory, engines, 0.0, degraded, note, records, labels)
        try:
            warm_up(loaded, self._ask)
        except BaseException:
            close_all(engines)
            raise
        return replace(loaded, load_seconds=time.monotonic() - started)

    def _open_first(
        self,
        contenders: _Contenders,
        config: ModelConfig,
        version: int,
        placement: Placement,
        on_gpu: bool | None,
    ) -> tuple[ModelConfig, _Opened]:
        """Open the best file that holds; raises what was wrong with the best one if none does."""
        failures: dict[str, Exception] = {}
        count = placement.on_gpu.count(on_gpu)
        for file in contenders.files:
            try:
                missing = count_to_open(file, config, count, placement.threads, on_gpu, self._meeting_place)
                with self._budget.room_for(config.name, version, needed_bytes(file, missing)):
                    completed, engines = open_proven(
                        file, config, count, placement.threads, on_gpu, self._completion, self._meeting_place
                    )
            except Exception as problem:
                if isinstance(problem, VerifyFailed):
                    self._on_golden_failure(config.name, version)
                _log.warning(
                    "model '%s' version %d: %s cannot serve: %s", config.name, version, file.path.name, problem
                )
                failures[file.path.name] = problem
                continue
            return completed, _outcome(file, contenders, engines, failures)
        if failures:
            raise next(iter(failures.values()))
        raise NotSupported(
            f"no engine of model '{config.name}' version {version} can run here: {contenders.passed_over}."
        )


def _without_engine(config: ModelConfig, version: int, directory: Path) -> LoadedVersion:
    """An ensemble runs on the engines of others."""
    completed = ModelConfig()
    completed.CopyFrom(config)
    complete_ensemble(completed)
    labels = read_labels(config, directory.parent)
    return LoadedVersion(completed, version, directory, (), 0.0, labels=labels)


def _file(config: ModelConfig, directory: Path, on_gpu: bool | None) -> EngineFile:
    """The one file of a version without evidence; a GPU may have one of its own."""
    compute_capability = this_hardware().compute_capability if on_gpu else None
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return EngineFile(directory / model_file(config, compute_capability), config.platform, size_bytes=size)


def _published(directory: Path, evidence: Evidence, record: EngineRecord, platform: str) -> EngineFile:
    """An engine of a version with evidence, which may say how much memory it was measured to take."""
    paths = [directory / name for name in files_of_engine(evidence, record)]
    size = sum(path.stat().st_size for path in paths if path.is_file())
    measured = [candidate.memory_bytes for candidate in evidence.candidates if candidate.name == record.candidate]
    return EngineFile(directory / record.file, platform, record, size, next(iter(measured), None))


def _contenders(directory: Path, evidence: Evidence, on_gpu: bool | None) -> _Contenders:
    """The engines of a published version that can run here; the fallback only if it is the only one."""
    ranking = rank_engines(evidence, this_hardware(), on_gpu=on_gpu)
    passed_over = reasons(ranking.invalid)
    if passed_over:
        _log.info("model '%s' version %d: passed over %s", evidence.model, evidence.version, passed_over)
    platform = evidence.engine_file("chosen").platform
    valid = [_published(directory, evidence, record, platform) for record in ranking.valid]
    better = [file for file in valid if file.record is not None and file.record.role != "fallback"]
    return _Contenders(better or valid, passed_over, is_last_resort=bool(valid) and not better)


def _outcome(
    file: EngineFile, contenders: _Contenders, engines: list[Engine], failures: dict[str, Exception]
) -> _Opened:
    name = file.path.name
    if contenders.is_last_resort:
        return _Opened(file, engines, degraded=f"{name} serves because: {contenders.passed_over}")
    note = f"{name} serves; passed over: {contenders.passed_over}" if contenders.passed_over else ""
    if not failures:
        return _Opened(file, engines, note=note)
    reason = "; ".join(f"{failed}: {problem}" for failed, problem in failures.items())
    return _Opened(file, engines, degraded=f"{name} serves because: {reason}", note=note)
