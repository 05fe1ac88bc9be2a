"""Where the engine of an instance runs: in the server's own process, or in one of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, cast

from enginehouse import process_engine, python_engine
from enginehouse.engine import Engine
from enginehouse.engine_options import engine_options_from_config
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.open_engine import open_engine
from enginehouse.process_engine import ProcessEngine, engine_task
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.processes.worker_process import Task
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.python_engine import PythonEngine

ISOLATION_PARAMETER = "isolation"
Isolation = Literal["none", "process", "shared"]


@dataclass(slots=True, frozen=True)
class Opening:
    """What an engine is opened from, on which kind of device; as `open_engine` takes it.

    Attributes:
        meeting_place: where servers find engines that they share; None for a server that shares none.
    """

    path: Path
    platform: str
    threads: int
    provider: str
    settings: dict[str, str] = field(default_factory=dict)
    on_gpu: bool = False
    meeting_place: MeetingPlace | None = None


def open_instance(config: ModelConfig, opening: Opening, instance: int) -> Engine:
    """Open the engine of one instance; Python models always have a process of their own.

    Raises:
        InvalidInput: the configuration asks for an isolation that there is not, or not in this server.
        NotSupported: it calls decoupled what gives one answer to each request.
        Error: whatever is wrong with the file.
    """
    isolation = isolation_from_config(config)
    if config.backend == "python":
        return PythonEngine(config, opening.path, instance, opening.threads, opening.on_gpu)
    if config.model_transaction_policy.decoupled:
        raise NotSupported(f"model '{config.name}': model_transaction_policy.decoupled needs a Python model.")
    if isolation == "process":
        return ProcessEngine(_task(config, opening))
    if isolation == "shared":
        return ProcessEngine(_task(config, opening), partial(_place(config, opening).meet, instance=instance))
    options = engine_options_from_config(config)
    return open_engine(opening.path, opening.platform, opening.threads, opening.provider, opening.settings, options)


def instances_elsewhere(config: ModelConfig, opening: Opening, count: int) -> int:
    """How many of a model's first `count` engines another server has open, so that they take no memory again."""
    if isolation_from_config(config) != "shared":
        return 0
    place, task = _place(config, opening), _task(config, opening)
    return sum(place.is_running(task, instance) for instance in range(count))


def isolation_from_config(config: ModelConfig) -> Isolation:
    """What separates an engine from the server; raises `InvalidInput` for what cannot be asked for."""
    found = config.parameters[ISOLATION_PARAMETER].string_value if ISOLATION_PARAMETER in config.parameters else ""
    if found not in ("", "none", "process", "shared"):
        raise InvalidInput(
            f"model '{config.name}': parameter '{ISOLATION_PARAMETER}' is '{found}'; "
            "'process', 'shared' or 'none' expected."
        )
    if found == "shared" and config.backend == "python":
        raise InvalidInput(
            f"model '{config.name}': a Python model cannot be '{found}' by several servers, because it asks the models "
            f"of its own; leave parameter '{ISOLATION_PARAMETER}' out."
        )
    return cast(Isolation, found or "none")


def _task(config: ModelConfig, opening: Opening) -> Task:
    options = engine_options_from_config(config)
    arguments = (opening.path, opening.platform, opening.threads, opening.provider, opening.settings, options)
    return engine_task(config.name, *arguments)


def _place(config: ModelConfig, opening: Opening) -> MeetingPlace:
    if opening.meeting_place is None:
        raise InvalidInput(
            f"model '{config.name}': parameter '{ISOLATION_PARAMETER}' is 'shared', but this server was not told where "
            "servers meet; start it with --shared-engines DIRECTORY, or ask for 'process'."
        )
    return opening.meeting_place


def acquaint(config: ModelConfig, engines: Sequence[Engine]) -> None:
    """Let instances in processes of their own step in for one that is being started again.

    A Python model that serves sequences keeps their states in its process, where no other can step in.
    """
    process_engine.let_step_in([engine for engine in engines if isinstance(engine, ProcessEngine)])
    if not config.HasField("sequence_batching"):
        python_engine.let_step_in([engine for engine in engines if isinstance(engine, PythonEngine)])
