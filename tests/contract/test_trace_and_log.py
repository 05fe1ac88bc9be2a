"""Traces and the log, set by the field's own client on a real server, and found where they are written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import save_model
from tests.contract.test_ensemble import save_ensemble
from tests.service.fake_steps import step_text


@pytest.fixture
def traced(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


@pytest.fixture
def service(start_service: StartService, tmp_path: Path, traced: Path) -> Iterator[RunningService]:
    save_model(tmp_path / "models", "echo", make_identity_model())
    tensors = {"in": ("TYPE_FP32", "3")}, {"out": ("TYPE_FP32", "3")}
    twice = [
        step_text("echo", {"INPUT0": "in"}, {"OUTPUT0": "p"}),
        step_text("echo", {"INPUT0": "p"}, {"OUTPUT0": "out"}),
    ]
    save_ensemble(tmp_path / "models", "twice", twice, *tensors)
    flags = ["--trace-config", f"triton,file={traced}", "--trace-config", "rate=1"]
    with start_service(tmp_path / "models", *flags) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as opened:
        yield opened


def ask(client: Any, request_id: str, model: str = "echo", name: str = "INPUT0") -> None:
    tensor = triton_grpc.InferInput(name, [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 2, 3]], np.float32))
    client.infer(model, [tensor], request_id=request_id)


def settings(answer: Any) -> dict[str, list[str]]:
    return {name: list(entry.value) for name, entry in answer.settings.items()}


def test_traces_are_switched_on_read_and_written(client: Any, service: RunningService, traced: Path) -> None:
    assert settings(client.get_trace_settings()) == {
        "trace_file": [str(traced)],
        "trace_level": ["OFF"],
        "trace_rate": ["1"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_mode": ["triton"],
    }
    ask(client, "before")
    told = client.update_trace_settings("echo", {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_count": "2"})
    assert settings(told)["trace_count"] == ["2"]
    assert settings(client.get_trace_settings())["trace_level"] == ["OFF"]
    for request_id in ("a", "b", "c"):
        ask(client, request_id)
    assert settings(client.get_trace_settings("echo"))["trace_count"] == ["0"]
    client.update_trace_settings("echo", {"trace_level": None, "trace_count": None})
    assert settings(client.get_trace_settings("echo")) == settings(client.get_trace_settings())
    assert service.stop() == 0
    entries = json.loads(traced.read_text())
    assert [entry["request_id"] for entry in entries if "request_id" in entry] == ["a", "b"]
    stamps = [entry["timestamps"][0] for entry in entries if entry["id"] == 1 and "timestamps" in entry]
    assert [stamp["name"] for stamp in stamps][0::6] == ["REQUEST_START", "REQUEST_END"]
    times = [stamp["ns"] for stamp in stamps]
    assert times == sorted(times)
    tensors = [entry["tensor"]["data"] for entry in entries if "tensor" in entry]
    assert tensors == ["1.0,2.0,3.0"] * 4


def test_the_steps_of_a_traced_ensemble_name_its_trace(client: Any, service: RunningService, traced: Path) -> None:
    client.update_trace_settings("twice", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    ask(client, "alone")
    ask(client, "together", "twice", "in")
    assert service.stop() == 0
    heads = [entry for entry in json.loads(traced.read_text()) if "model_name" in entry]
    told = [(head["model_name"], head["model_version"], head["request_id"], head.get("parent_id")) for head in heads]
    assert told == [("twice", 1, "together", None), ("echo", 1, "together", 1), ("echo", 1, "together", 1)]
    assert [head["id"] for head in heads] == [1, 2, 3]


def test_traces_that_make_no_sense_are_refused(client: Any) -> None:
    for model, changes, reason, status in (
        ("nobody", {"trace_rate": "1"}, "Request for unknown model : nobody", "INVALID_ARGUMENT"),
        ("", {"trace_rate": "x"}, "Unable to parse 'trace_rate', got: x", "INVALID_ARGUMENT"),
        ("", {"trace_file": "/tmp/x"}, "can not be updated through network protocol", "UNIMPLEMENTED"),
    ):
        with pytest.raises(InferenceServerException, match=reason) as refusal:
            client.update_trace_settings(model, changes)
        assert refusal.value.status() == f"StatusCode.{status}"


def test_the_log_is_set_and_obeys(client: Any, service: RunningService) -> None:
    told = client.get_log_settings(as_json=True)["settings"]
    assert told["log_info"] == {"bool_param": True}
    assert told["log_format"] == {"string_param": "default"}
    assert set(told) == {"log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format"}
    for changes, reason in (
        ({"log_format": "json"}, "invalid argument for log_format"),
        ({"log_file": "/tmp/x"}, "can not be updated through network protocol"),
    ):
        with pytest.raises(InferenceServerException, match=reason):
            client.update_log_settings(changes)
    client.update_log_settings({"log_verbose_level": 1, "log_format": "ISO8601"})
    ask(client, "loud")
    client.update_log_settings({"log_verbose_level": 0, "log_format": "default"})
    ask(client, "quiet")
    assert service.stop() == 0
    loud = [line for line in service.lines if "loud" in line]
    assert len(loud) == 1
    assert "Z V " in loud[0]
    assert "server.py" in loud[0]
    assert not [line for line in service.lines if "quiet" in line]
    assert [line for line in service.lines if " INFO " in line and "stopping" in line]


def test_a_silenced_log_stays_silent(client: Any, service: RunningService) -> None:
    client.update_log_settings({"log_info": False})
    assert service.stop() == 0
    assert "stopping: finishing" not in service.output


def test_setting_traces_while_requests_run_loses_no_answer(client: Any) -> None:
    for round_ in range(200):
        client.update_trace_settings("", {"trace_level": [("OFF", "TIMESTAMPS")[round_ % 2]]})
        ask(client, "x")
