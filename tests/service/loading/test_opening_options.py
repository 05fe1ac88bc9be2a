"""What a configuration asks of its library reaches the engine that is opened, and a GPU gets the file made for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from enginehouse.engine import Engine
from enginehouse.engine_options import EngineOptions
from enginehouse.errors import InvalidInput
from enginehouse.hardware import this_hardware, usable_cores
from enginehouse.model_config import config_from_text
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.repository import Repository
from service.loading.loader import VersionLoader
from service.loading.memory_estimate import MemoryBudget
from service.loading.placement import placement_from_config
from service.loading.repositories import Repositories
from tests.service.conftest import make_scale_model

ACCELERATED = "optimization { execution_accelerators { cpu_execution_accelerator { name: 'openvino' } } }"
Load = Callable[[str], Engine]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load(config_text)` opens version 1 of a model without evidence; the engine of its one instance."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    onnx.save(make_scale_model(2.0), tmp_path / "m" / "1" / "model.onnx")
    loader = VersionLoader(Repositories([Repository(tmp_path)]), lambda *_: None)

    def open_one(text: str) -> Engine:
        (engine,) = loader.load(config_from_text(text, "m"), 1).engines
        return engine

    return open_one


def test_a_server_without_memory_for_an_engine_can_share_that_of_another(tmp_path: Path) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    onnx.save(make_scale_model(2.0), tmp_path / "models" / "m" / "1" / "model.onnx")
    repositories = Repositories([Repository(tmp_path / "models")])
    rich, poor = (
        VersionLoader(
            repositories,
            lambda *_: None,
            budget=MemoryBudget(lambda available=available: available, 1.0),  # type: ignore[misc]
            meeting_place=MeetingPlace(tmp_path / "engines"),
        )
        for available in (10**9, 1)
    )
    shared = config_from_text('parameters { key: "isolation" value { string_value: "shared" } }', "m")
    with pytest.raises(InvalidInput, match="Unload another model"):
        poor.load(shared, 1)
    first, second = (loader.load(shared, 1).engines[0] for loader in (rich, poor))
    assert second.pid == first.pid  # type: ignore[attr-defined]
    for engine in (first, second):
        engine.close()


def test_an_accelerator_of_the_configuration_is_what_serves(load: Load) -> None:
    assert type(load("")).__name__ == "OnnxRuntimeEngine"
    assert type(load(ACCELERATED)).__name__ == "OpenVinoEngine"


def test_options_of_the_session_reach_the_library(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def note(library: Any, *rest: Any) -> Any:
        asked.append(rest[-1])
        return library.SessionOptions()

    monkeypatch.setattr("enginehouse.onnxruntime_engine._session_options", note)
    load("parameters { key: 'execution_mode' value { string_value: '1' } } optimization { graph { level: 2 } }")
    assert (asked[0].is_parallel, asked[0].graph_level) == (True, 2)
    assert asked[0] != EngineOptions().session


def test_a_wrong_value_keeps_the_model_from_loading(load: Load) -> None:
    with pytest.raises(InvalidInput, match=r"graph\.level is 7"):
        load("optimization { graph { level: 7 } }")


def test_a_gpu_opens_the_file_of_its_compute_capability(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def note(file: Any, *_: object) -> Any:
        opened.append(file.path.name)
        raise InvalidInput("that is enough")

    monkeypatch.setattr("service.loading.loader.open_proven", note)
    here = this_hardware().model_copy(update={"compute_capability": "8.6"})
    monkeypatch.setattr("service.loading.loader.this_hardware", lambda: here)
    for kind in ("KIND_GPU", "KIND_CPU"):
        text = f"cc_model_filenames {{ key: '8.6' value: 'ampere.onnx' }} instance_group {{ kind: {kind} }}"
        with pytest.raises(InvalidInput, match="enough"):
            load(text)
    assert opened == ["ampere.onnx", "model.onnx"]


@pytest.mark.parametrize("key", ["intra_op_thread_count", "INFERENCE_NUM_THREADS"])
def test_threads_are_told_in_the_words_of_either_library(key: str) -> None:
    config = config_from_text(f"parameters {{ key: '{key}' value {{ string_value: '3' }} }}", "m")
    assert placement_from_config(config).threads == 3
    config.parameters[key].string_value = "0"
    assert placement_from_config(config).threads == usable_cores()
