"""The REST form, as clients and browsers meet it."""

import http.client
import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http

from tests.conftest import RunningService


def call(service: RunningService, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    try:
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(content) if is_json and content else content
    finally:
        connection.close()


def get(service: RunningService, path: str) -> tuple[int, Any]:
    return call(service, "GET", path)


def ask(service: RunningService, model: str, body: object) -> tuple[int, Any]:
    return call(service, "POST", f"/v2/models/{model}/infer", json.dumps(body).encode())


ROW = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2.5, 3]}


def test_health_answers_what_both_kinds_of_client_read(service: RunningService) -> None:
    assert get(service, "/v2/health/live") == (200, {"live": True})
    assert get(service, "/v2/health/ready") == (200, {"live": True, "ready": True})
    assert get(service, "/v2/models/simple/ready") == (200, {"name": "simple", "ready": True})
    assert get(service, "/v2/models/simple/versions/1/ready")[0] == 200


def test_metadata_lists_only_extensions_that_are_there(service: RunningService) -> None:
    status, body = get(service, "/v2?test_1=1&test_2=2")
    assert status == 200
    assert body["name"] == "enginehouse"
    assert {"classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters"} <= set(
        body["extensions"]
    )
    assert "system_shared_memory" not in body["extensions"]
    assert len(set(body["extensions"])) == len(body["extensions"])


def test_model_metadata_has_the_batch_dimension_in_front(service: RunningService) -> None:
    status, body = get(service, "/v2/models/simple")
    assert status == 200
    assert body["platform"] == "onnxruntime_onnx"
    assert body["versions"] == ["1"]
    assert body["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    assert get(service, "/v2/models/fixed")[1]["inputs"][0]["shape"] == [2, 3]


def test_all_versions_answer_and_the_newest_is_the_default(service: RunningService) -> None:
    assert get(service, "/v2/models/versions")[1]["versions"] == ["1", "3"]
    assert ask(service, "versions", {"inputs": [ROW]})[1]["model_version"] == "3"
    assert ask(service, "versions/versions/1", {"inputs": [ROW]})[1]["model_version"] == "1"


def test_config_is_complete(service: RunningService) -> None:
    _, body = get(service, "/v2/models/simple/config")
    assert body["max_batch_size"] == 4
    assert body["dynamic_batching"]["preferred_batch_size"] == [4]
    assert body["instance_group"][0] == body["instance_group"][0] | {"kind": "KIND_CPU", "count": 1}
    assert body["input"][0]["data_type"] == "TYPE_INT32"
    assert body["version_policy"] == {"latest": {"num_versions": 1}}


def test_statistics_of_two_snapshots_differ_by_what_was_asked(service: RunningService) -> None:
    _, before = get(service, "/v2/models/identity_fp32/stats")
    rows = {**ROW, "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}
    for _ in range(3):
        assert ask(service, "identity_fp32", {"inputs": [rows]})[0] == 200
    _, after = get(service, "/v2/models/identity_fp32/versions/1/stats")
    old, new = before["model_stats"][0], after["model_stats"][0]
    assert new["inference_count"] - old["inference_count"] == 6
    assert new["execution_count"] - old["execution_count"] == 3
    for part in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert new["inference_stats"][part]["count"] - old["inference_stats"][part]["count"] == 3
        assert new["inference_stats"][part]["ns"] > old["inference_stats"][part]["ns"]
    assert any(entry["batch_size"] == 2 for entry in new["batch_stats"])
    assert {entry["name"] for entry in get(service, "/v2/models/stats")[1]["model_stats"]} >= {"simple", "fixed"}


def test_json_data_may_be_nested_or_flat(service: RunningService) -> None:
    nested = {**ROW, "shape": [2, 3], "data": [[1, 2, 3], [4, 5, 6]]}
    status, body = ask(service, "identity_fp32", {"id": "seven", "inputs": [nested]})
    assert status == 200
    assert body["id"] == "seven"
    assert body["model_name"] == "identity_fp32"
    assert body["outputs"] == [{"name": "OUTPUT0", "datatype": "FP32", "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}]


def test_json_and_binary_inputs_and_outputs_mix(service: RunningService) -> None:
    first = np.arange(16, dtype=np.int32).reshape(1, 16)
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        left = triton_http.InferInput("INPUT0", [1, 16], "INT32")
        left.set_data_from_numpy(first, binary_data=False)
        right = triton_http.InferInput("INPUT1", [1, 16], "INT32")
        right.set_data_from_numpy(first, binary_data=True)
        wanted = [
            triton_http.InferRequestedOutput("OUTPUT0", binary_data=True),
            triton_http.InferRequestedOutput("OUTPUT1", binary_data=False),
        ]
        answer = client.infer("simple", [left, right], outputs=wanted)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), first * 2)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), first * 0)
    assert answer.get_output("OUTPUT0")["parameters"] == {"binary_data_size": 64}
    assert "data" in answer.get_output("OUTPUT1")


def test_only_requested_outputs_come_back_in_the_order_asked(service: RunningService) -> None:
    inputs = [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [1, 16], "data": [n] * 16} for n in (0, 1)]
    one = ask(service, "simple", {"inputs": inputs, "outputs": [{"name": "OUTPUT1"}]})[1]["outputs"]
    assert [output["name"] for output in one] == ["OUTPUT1"]
    both = ask(service, "simple", {"inputs": inputs, "outputs": [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]})
    assert [output["name"] for output in both[1]["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    assert both[1]["outputs"][0]["data"] == [-1] * 16


def test_binary_reply_announces_its_header(service: RunningService) -> None:
    header = json.dumps(
        {
            "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "parameters": {"binary_data_size": 12}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port)
    body = header + struct.pack("<3f", 1, 2, 3)
    sent = {"inference-header-content-length": str(len(header)), "content-type": "application/octet-stream"}
    connection.request("POST", "/v2/models/identity_fp32/infer", body, sent)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    length = int(answer.getheader("Inference-Header-Content-Length") or 0)
    assert answer.getheader("Content-Type") == "application/octet-stream"
    assert json.loads(content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert content[length:] == struct.pack("<3f", 1, 2, 3)


def test_a_row_without_dimensions_is_answered_as_the_configuration_says(service: RunningService) -> None:
    rows = {"name": "scores", "datatype": "FP32", "shape": [2, 5], "data": [0, 9, 0, 0, 0, 0, 0, 0, 9, 0]}
    output = ask(service, "argmax", {"inputs": [rows]})[1]["outputs"][0]
    assert (output["shape"], output["data"]) == ([2, 1], [1, 3])


def test_a_model_without_a_batch_axis_takes_its_whole_shape(service: RunningService) -> None:
    whole = {**ROW, "shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}
    assert ask(service, "fixed", {"inputs": [whole]})[1]["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6]
    assert ask(service, "fixed", {"inputs": [ROW]})[0] == 400


def test_an_engine_that_fails_answers_500_and_serves_on(service: RunningService) -> None:
    bad = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    good = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    status, body = ask(service, "failing", {"inputs": [bad]})
    assert status == 500
    assert "ONNX Runtime failed" in body["error"]
    assert ask(service, "failing", {"inputs": [good]})[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("GET", "/v2/", 404, "Not Found"),
        ("POST", "/v2/models/simple/infer/", 404, "Not Found"),
        ("GET", "/v2/models/simple/nothing", 404, "Not Found"),
        ("DELETE", "/v2", 405, "Method Not Allowed"),
        ("GET", "/v2/models/simple/infer", 405, "Method Not Allowed"),
        ("GET", "/v2/models/nobody", 404, "Request for unknown model: 'nobody' is not found"),
        ("GET", "/v2/models/nobody/ready", 404, "Request for unknown model: 'nobody' is not found"),
        ("GET", "/v2/models/simple/versions/9", 404, "Request for unknown model: 'simple' version 9 is not found"),
        ("GET", "/v2/models/nobody/config", 404, "Request for unknown model: 'nobody' is not found"),
        ("GET", "/v2/models/nobody/stats", 404, "Request for unknown model: 'nobody' is not found"),
        (
            "POST",
            "/v2/repository/models/nobody/load",
            404,
            "failed to load 'nobody', failed to poll from model repository",
        ),
        ("POST", "/v2/repository/models/nobody/unload", 404, "failed to unload 'nobody'"),
    ],
)
def test_every_refusal_is_an_error_object(
    service: RunningService, method: str, path: str, status: int, message: str
) -> None:
    found, body = call(service, method, path)
    assert found == status
    assert list(body) == ["error"]
    assert body["error"].startswith(message)


def test_names_may_be_percent_encoded(service: RunningService) -> None:
    assert get(service, "/v2/models/%73imple")[1]["name"] == "simple"


def test_documentation_and_schema_are_served(service: RunningService) -> None:
    status, page = get(service, "/docs")
    assert status == 200
    schema = get(service, "/openapi.json")[1]
    assert "post" in schema["paths"]["/v2/models/{model}/infer"]
    for path, methods in schema["paths"].items():
        assert f"<code>{path}</code>".encode() in page
        assert all(operation["summary"].encode() in page for operation in methods.values())
    # Many servers run where no other can be reached.
    assert b"//" not in page
    assert b"<script" not in page


def test_metrics_are_on_both_ports(service: RunningService) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.metrics_port)
    connection.request("GET", "/metrics")
    alone = connection.getresponse().read()
    connection.close()
    for exposition in (alone, get(service, "/metrics")[1]):
        assert b'nv_inference_count{model="simple",version="1"}' in exposition
        assert b'enginehouse_batch_rows_bucket{model="simple",version="1",le="1"}' in exposition


def test_models_load_unload_and_show_in_the_index(service: RunningService) -> None:
    assert call(service, "POST", "/v2/repository/models/fixed/unload") == (200, b"")
    index = call(service, "POST", "/v2/repository/index")[1]
    row = next(row for row in index if row["name"] == "fixed")
    assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded")
    status, body = ask(service, "fixed", {"inputs": [ROW]})
    assert status == 503
    assert body["error"].startswith("Request for unknown model: 'fixed' has no version at ready state")
    ready = call(service, "POST", "/v2/repository/index", b'{"ready": true}')[1]
    assert "fixed" not in {row["name"] for row in ready}
    assert call(service, "POST", "/v2/repository/models/fixed/load", b"{}") == (200, b"")
    assert get(service, "/v2/models/fixed/ready")[0] == 200


def test_load_takes_a_configuration_and_refuses_a_wrong_one(service: RunningService) -> None:
    path = "/v2/repository/models/identity_int8/load"
    good = json.dumps({"parameters": {"config": json.dumps({"max_batch_size": "16"})}}).encode()
    assert call(service, "POST", path, good) == (200, b"")
    assert get(service, "/v2/models/identity_int8/config")[1]["max_batch_size"] == 16
    for config in (
        '{"max_batch_size": -1}',
        '{"nonsense": 1}',
        "not json",
        '{"sequence_batching": {"iterative_sequence": true}}',
    ):
        wrong = json.dumps({"parameters": {"config": config}}).encode()
        status, body = call(service, "POST", path, wrong)
        assert status == 400
        assert "failed to load 'identity_int8'" in body["error"]
    assert get(service, "/v2/models/identity_int8/config")[1]["max_batch_size"] == 16
    assert call(service, "POST", path) == (200, b"")
