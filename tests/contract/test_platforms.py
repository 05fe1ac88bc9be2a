"""Engines of every platform in one server: those this machine can run serve, the others say what is missing."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from tests.conftest import DIGITS, RunningService, StartService


def digits_directory(repository: Path, name: str, config: str = "") -> Path:
    version = repository / name / "1"
    version.mkdir(parents=True)
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    return version


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("platforms")
    shutil.copy(DIGITS / "digits.onnx", digits_directory(repository, "onnx") / "model.onnx")
    model = openvino.Core().read_model(DIGITS / "digits.onnx")
    openvino.save_model(model, digits_directory(repository, "intermediate") / "model.xml", compress_to_fp16=False)
    gpu = "max_batch_size: 4 instance_group [ { kind: KIND_GPU count: 1 } ]"
    shutil.copy(DIGITS / "digits.onnx", digits_directory(repository, "on_gpu", gpu) / "model.onnx")
    (digits_directory(repository, "plan") / "model.plan").write_bytes(b"a serialized engine")
    with start_service(repository, "--strict-readiness", "false") as running:
        yield running


def ask(service: RunningService, model: str) -> Any:
    body = (DIGITS / "request.json").read_bytes()
    with urllib.request.urlopen(f"{service.url}/v2/models/{model}/infer", body) as answer:
        return json.load(answer)


def test_openvino_answers_what_onnx_runtime_answers(service: RunningService) -> None:
    ours = ask(service, "intermediate")["outputs"][0]
    reference = ask(service, "onnx")["outputs"][0]
    assert ours["shape"] == reference["shape"]
    np.testing.assert_allclose(ours["data"], reference["data"], rtol=1e-4, atol=1e-4)
    with urllib.request.urlopen(f"{service.url}/v2/models/intermediate/config") as answer:
        assert json.load(answer)["platform"] == "openvino"


@pytest.mark.parametrize(("model", "extra"), [("on_gpu", "gpu"), ("plan", "tensorrt")])
def test_what_this_machine_cannot_run_names_the_extra(service: RunningService, model: str, extra: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refusal:
        ask(service, model)
    assert refusal.value.code == 503
    assert f"enginehouse[{extra}]" in json.load(refusal.value)["error"]
    rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
    states = {row["name"]: row for row in rows}
    assert states[model]["state"] == "UNAVAILABLE"
    assert f"enginehouse[{extra}]" in states[model]["reason"]
    assert states["onnx"]["state"] == "READY"


def test_one_model_that_cannot_load_keeps_a_strict_server_from_being_ready(
    start_service: StartService, tmp_path: Path
) -> None:
    shutil.copy(DIGITS / "digits.onnx", digits_directory(tmp_path, "good") / "model.onnx")
    (digits_directory(tmp_path, "bad") / "model.onnx").write_bytes(b"not a model")
    with start_service(tmp_path) as strict:
        assert len(ask(strict, "good")["outputs"]) == 1
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"{strict.url}/v2/health/ready")
        assert "is NOT ready" in strict.output
