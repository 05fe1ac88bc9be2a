"""One engine file on several instances: all of them hold, or none stays open."""

from pathlib import Path

import pytest

from enginehouse.errors import EngineFailed, InvalidInput, VerifyFailed
from enginehouse.evidence import EngineRecord
from enginehouse.model_config import config_from_text
from enginehouse.open_engine import open_engine
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.loading.opening import EngineFile, open_proven
from tests.enginehouse.conftest import make_record
from tests.service.conftest import publish

ONNX = "onnxruntime_onnx"


def engine_file(directory: Path, record: EngineRecord | None = None) -> EngineFile:
    return EngineFile(directory / "model.onnx", ONNX, record or make_record())


def test_every_instance_is_an_engine_of_its_own_and_the_configuration_is_a_completed_copy(tmp_path: Path) -> None:
    config = ModelConfig(name="m")
    completed, engines = open_proven(engine_file(publish(tmp_path)), config, 3, 1, None)
    assert len({id(engine) for engine in engines}) == 3
    assert (completed.platform, completed.max_batch_size) == (ONNX, 4)
    assert config == ModelConfig(name="m")


@pytest.mark.parametrize("fault", ["golden", "config"])
def test_nothing_stays_open_when_one_is_not_what_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    directory = publish(tmp_path, original=3 if fault == "golden" else 2)
    config = config_from_text("input { name: 'z' data_type: TYPE_FP32 dims: 2 }" if fault == "config" else "", "m")
    opened = []

    def remember(*arguments: object) -> object:
        opened.append(open_engine(*arguments))  # type: ignore[arg-type]
        return opened[-1]

    monkeypatch.setattr("service.loading.engine_doors.open_engine", remember)
    with pytest.raises(VerifyFailed if fault == "golden" else InvalidInput):
        open_proven(engine_file(directory), config, 2, 1, None)
    assert len(opened) == (2 if fault == "golden" else 1)
    for engine in opened:
        with pytest.raises(EngineFailed, match="closed"):
            engine.run({})


def test_a_file_without_evidence_is_opened_without_proof(tmp_path: Path) -> None:
    directory = publish(tmp_path, original=3)
    _, engines = open_proven(EngineFile(directory / "model.onnx", ONNX), ModelConfig(name="m"), 1, 1, False)
    assert len(engines) == 1
