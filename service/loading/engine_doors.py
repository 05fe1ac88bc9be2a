"""Where the engine of an instance runs: in the server's own process, or in one of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse import process_engine, python_engine
from enginehouse.engine import Engine
from enginehouse.engine_options import engine_options_from_config
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.open_engine import open_engine
from enginehouse.process_engine import ProcessEngine
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.python_engine import PythonEngine

ISOLATION_PARAMETER = "isolation"
_ISOLATIONS = {"": False, "none": False, "process": True}


@dataclass(slots=True, frozen=True)
class Opening:
    """What an engine is opened from, on which kind of device; as `open_engine` takes it."""

    path: Path
    platform: str
    threads: int
    provider: str
    settings: dict[str, str] = field(default_factory=dict)
    on_gpu: bool = False


def open_instance(config: ModelConfig, opening: Opening, instance: int) -> Engine:
    """Open the engine of one instance; Python models always have a process of their own.

    Raises:
        InvalidInput: the configuration asks for an isolation that there is not.
        NotSupported: it calls decoupled what gives one answer to each request.
        Error: whatever is wrong with the file.
    """
    isolated = is_isolated(config)
    if config.backend == "python":
        return PythonEngine(config, opening.path, instance, opening.threads, opening.on_gpu)
    if config.model_transaction_policy.decoupled:
        raise NotSupported(f"model '{config.name}': model_transaction_policy.decoupled needs a Python model.")
    options = engine_options_from_config(config)
    arguments = (opening.path, opening.platform, opening.threads, opening.provider, opening.settings, options)
    return ProcessEngine(config.name, *arguments) if isolated else open_engine(*arguments)


def is_isolated(config: ModelConfig) -> bool:
    """Whether each instance is to have a process of its own; raises `InvalidInput` for an unknown word."""
    found = config.parameters[ISOLATION_PARAMETER].string_value if ISOLATION_PARAMETER in config.parameters else ""
    if found not in _ISOLATIONS:
        raise InvalidInput(
            f"model '{config.name}': parameter '{ISOLATION_PARAMETER}' is '{found}'; 'process' or 'none' expected."
        )
    return _ISOLATIONS[found]


def acquaint(config: ModelConfig, engines: Sequence[Engine]) -> None:
    """Let instances in processes of their own step in for one that is being started again.

    A Python model that serves sequences keeps their states in its process, where no other can step in.
    """
    process_engine.let_step_in([engine for engine in engines if isinstance(engine, ProcessEngine)])
    if not config.HasField("sequence_batching"):
        python_engine.let_step_in([engine for engine in engines if isinstance(engine, PythonEngine)])
