"""Where an engine runs is the configuration's word; everything else about it is the same."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.engine import Engine, Killable
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.model_config import config_from_text
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from enginehouse.process_engine import ProcessEngine
from enginehouse.processes.meeting_place import MeetingPlace
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.python_engine import PythonEngine
from service.loading.engine_doors import Opening, acquaint, instances_elsewhere, isolation_from_config, open_instance
from service.loading.opening import EngineFile, open_proven
from tests.service.conftest import make_scale_model

ISOLATED = 'backend: "onnxruntime" parameters { key: "isolation" value { string_value: "process" } }'
PYTHON = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""
SOURCE = """
from enginehouse.python_model import Response
class M:
    def execute(self, requests):
        return [Response({"y": request.inputs["x"] * 3}) for request in requests]
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    onnx.save(make_scale_model(3), tmp_path / "model.onnx")
    (tmp_path / "model.py").write_text(SOURCE)
    return tmp_path


@contextmanager
def opened(*engines: Engine) -> Iterator[Sequence[Any]]:
    try:
        yield engines
    finally:
        for engine in engines:
            engine.close()


def open_onnx(directory: Path, config: ModelConfig) -> Engine:
    return open_instance(config, Opening(directory / "model.onnx", "onnxruntime_onnx", 1, CPU_PROVIDER), 0)


def isolated(word: str) -> ModelConfig:
    return config_from_text(ISOLATED.replace('"process"', f'"{word}"'), "m")


@pytest.mark.parametrize(("text", "kind"), [('backend: "onnxruntime"', OnnxRuntimeEngine), (ISOLATED, ProcessEngine)])
def test_the_parameter_decides_and_the_answers_agree(directory: Path, text: str, kind: type[Engine]) -> None:
    with opened(open_onnx(directory, config_from_text(text, "m"))) as (engine,):
        assert isinstance(engine, kind)
        assert isinstance(engine, Killable) == (kind is ProcessEngine)
        assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 3]]


def test_what_the_configuration_asks_of_the_library_reaches_the_process(directory: Path) -> None:
    wrong = ISOLATED + ' parameters { key: "enable_mem_arena" value { string_value: "maybe" } }'
    with pytest.raises(InvalidInput, match="enable_mem_arena"):
        open_onnx(directory, config_from_text(wrong, "m"))
    in_openvino = (
        ISOLATED + ' optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'
    )
    with opened(open_onnx(directory, config_from_text(in_openvino, "m"))) as (engine,):
        assert "openvino" in Path(f"/proc/{engine.pid}/maps").read_text()


def test_a_python_model_always_has_its_own_process(directory: Path) -> None:
    config = config_from_text(PYTHON, "m")
    with opened(open_instance(config, Opening(directory / "model.py", "python", 1, CPU_PROVIDER), 0)) as (engine,):
        assert isinstance(engine, PythonEngine)
        assert isinstance(engine, Killable)


def test_unknown_isolation_and_decoupled_engines_are_refused(directory: Path) -> None:
    assert isolation_from_config(isolated("none")) == "none"
    with pytest.raises(InvalidInput, match="'isolation' is 'thread'; 'process', 'shared' or 'none' expected"):
        isolation_from_config(isolated("thread"))
    with pytest.raises(NotSupported, match=r"model_transaction_policy\.decoupled needs a Python model"):
        open_onnx(directory, config_from_text("model_transaction_policy { decoupled: true }", "m"))


def test_engines_are_shared_by_those_who_are_told_where_to_meet(directory: Path, tmp_path: Path) -> None:
    place = MeetingPlace(tmp_path / "engines")
    (tmp_path / "version").mkdir()
    path = (directory / "model.onnx").rename(tmp_path / "version" / "model.onnx")
    opening = Opening(path, "onnxruntime_onnx", 1, CPU_PROVIDER, meeting_place=place)
    config = isolated("shared")
    assert instances_elsewhere(config, opening, 2) == 0
    with opened(open_instance(config, opening, 0), open_instance(config, opening, 0)) as (one, other):
        assert one.pid == other.pid
        assert one.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 3]]
        assert instances_elsewhere(config, opening, 2) == 1
        with opened(open_instance(config, opening, 1)) as (second,):
            assert second.pid != one.pid
            assert instances_elsewhere(config, opening, 2) == 2
        assert instances_elsewhere(isolated("process"), opening, 2) == 0
        os.kill(one.pid, signal.SIGKILL)


def test_who_is_not_told_where_to_meet_says_what_to_do(directory: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"'isolation' is 'shared', but .* --shared-engines DIRECTORY, or .*'process'"
    ):
        open_onnx(directory, isolated("shared"))
    python = config_from_text(PYTHON + 'parameters { key: "isolation" value { string_value: "shared" } }', "m")
    with pytest.raises(InvalidInput, match="a Python model cannot be 'shared' by several servers"):
        isolation_from_config(python)


def test_all_instances_of_a_model_step_in_for_each_other_but_not_where_sequences_have_their_states(
    directory: Path,
) -> None:
    _, engines = open_proven(
        EngineFile(directory / "model.onnx", "onnxruntime_onnx"), config_from_text(ISOLATED, "m"), 2, 1, None
    )
    with opened(*engines) as (one, other):
        assert tuple(one._siblings) == (one, other)
        assert tuple(other._siblings) == (other, one)
    config = config_from_text(PYTHON + "sequence_batching { }", "m")
    opening = Opening(directory / "model.py", "python", 1, CPU_PROVIDER)
    with opened(open_instance(config, opening, 0), open_instance(config, opening, 1)) as (one, other):
        acquaint(config, [one, other])
        assert one._siblings == (one,)


def test_an_engine_that_fails_its_proof_leaves_no_process(directory: Path) -> None:
    text = ISOLATED + ' input { name: "nonesuch" data_type: TYPE_FP32 dims: 2 }'
    with opened(open_onnx(directory, config_from_text(ISOLATED, "m"))):
        assert len(own_workers()) == 1
    with pytest.raises(InvalidInput):
        open_proven(EngineFile(directory / "model.onnx", "onnxruntime_onnx"), config_from_text(text, "m"), 2, 1, None)
    assert own_workers() == []


def own_workers() -> list[str]:
    """Children of this process that serve an engine; other tests may have a whole server running."""
    files = [task / "children" for task in Path("/proc/self/task").iterdir()]
    pids = [pid for file in files if file.exists() for pid in file.read_text().split()]
    return [pid for pid in pids if b"enginehouse.processes.process_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
