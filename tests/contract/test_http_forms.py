"""The forms in which REST requests and answers come: packed, raw, classified, timed, flat; with the field's clients."""

import asyncio
import gzip
import http.client
import json
import shutil
import subprocess
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_aio
from onnx import TensorProto
from tritonclient.utils import InferenceServerException, shared_memory

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import make_simple_model, save_model
from tests.contract.test_shutdown import BODY as SLOW_BODY
from tests.contract.test_shutdown import make_slow_model

LABELS = "zero\none\ntwo\nthree\nfour\n"
SCORES_CONFIG = """
max_batch_size: 8
dynamic_batching { }
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ 5 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 5 ] label_filename: "labels.txt" } ]
"""
MAX_BYTES = 1_000_000


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("forms")
    save_model(repository, "scores", make_identity_model(shape=("batch", 5)), SCORES_CONFIG)
    (repository / "scores" / "labels.txt").write_text(LABELS)
    save_model(repository, "flat", make_identity_model(shape=(2, 5)))
    save_model(repository, "open", make_identity_model(shape=("length", 2)), OPEN_CONFIG)
    save_model(repository, "simple", make_simple_model())
    save_model(repository, "words", make_identity_model(TensorProto.STRING, ("batch", 1)))
    save_model(repository, "slow", make_slow_model())
    flags = [
        "--http-max-input-size",
        str(MAX_BYTES),
        "--http-header-forward-pattern",
        "^x-mine-",
        "--allow-client-shm",
        "true",
    ]
    with start_service(repository, *flags) as running:
        yield running


OPEN_CONFIG = """
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1, 2 ] } ]
"""


def post(service: RunningService, path: str, body: bytes, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, named)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def infer_body(values: list[float], shape: list[int], **more: object) -> bytes:
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": values}
    return json.dumps({"inputs": [entry], **more}).encode()


ROW = infer_body([0.1, 0.9, 0.3, 0.2, 0.5], [1, 5])
INFER = "/v2/models/scores/infer"


@pytest.fixture
def client(service: RunningService) -> Iterator[triton_http.InferenceServerClient]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as made:
        yield made


def simple_inputs(is_binary: bool, kind: Any = triton_http) -> tuple[list[Any], np.ndarray[Any, Any]]:
    rows = np.arange(16, dtype=np.int32).reshape(1, 16)
    inputs = [kind.InferInput(f"INPUT{at}", [1, 16], "INT32") for at in (0, 1)]
    for tensor in inputs:
        tensor.set_data_from_numpy(rows, binary_data=is_binary)
    return inputs, rows


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("answer", ["gzip", "deflate", None])
@pytest.mark.parametrize("request_", ["gzip", "deflate", None])
def test_the_client_packs_both_ways(
    client: triton_http.InferenceServerClient, request_: str | None, answer: str | None, is_binary: bool
) -> None:
    inputs, rows = simple_inputs(is_binary)
    wanted = [triton_http.InferRequestedOutput("OUTPUT0", binary_data=is_binary)]
    found = client.infer(
        "simple",
        inputs,
        outputs=wanted,
        request_compression_algorithm=request_,
        response_compression_algorithm=answer,
    )
    np.testing.assert_array_equal(found.as_numpy("OUTPUT0"), rows * 2)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
async def test_the_asynchronous_client_packs_both_ways(service: RunningService, algorithm: str) -> None:
    async with triton_aio.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        inputs, rows = simple_inputs(True)
        options = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        found = await asyncio.gather(*(client.infer("simple", inputs, **options) for _ in range(4)))
    for one in found:
        np.testing.assert_array_equal(one.as_numpy("OUTPUT0"), rows * 2)


UNPACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [("gzip;q=0.2, deflate;q=0.8", "deflate"), ("gzip", "gzip"), ("br", None), ("gzip;q=0.1, identity;q=0.5", None)],
)
def test_an_answer_is_packed_as_the_client_weighs(service: RunningService, accepted: str, encoding: str | None) -> None:
    answer, body = post(service, INFER, ROW, Accept_Encoding=accepted)
    assert answer.getheader("Content-Encoding") == encoding
    plain = UNPACK[encoding](body) if encoding else body
    assert json.loads(plain)["outputs"][0]["data"] == [0.1, 0.9, 0.3, 0.2, 0.5]


def test_the_length_of_a_header_is_that_of_the_unpacked_body(service: RunningService) -> None:
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 5], "parameters": {"binary_data_size": 20}}
    header = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    row = np.arange(5, dtype=np.float32).tobytes()
    packed = gzip.compress(header + row)
    sent = {"Inference_Header_Content_Length": str(len(header)), "Content_Encoding": "gzip", "Accept_Encoding": "gzip"}
    answer, body = post(service, INFER, packed, **sent)
    assert answer.status == 200, body
    plain = gzip.decompress(body)
    length = int(answer.getheader("Inference-Header-Content-Length") or 0)
    assert plain[length:] == row
    assert json.loads(plain[:length])["outputs"][0]["parameters"] == {"binary_data_size": 20}


def resident_bytes(service: RunningService) -> int:
    fields = Path(f"/proc/{service.process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_and_not_unpacked(service: RunningService, encoding: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(32)) + packer.flush()
    assert len(bomb) < MAX_BYTES
    before = resident_bytes(service)
    answer, body = post(service, INFER, bomb, Content_Encoding=encoding)
    assert answer.status == 400
    assert f"more than the {MAX_BYTES} bytes" in json.loads(body)["error"]
    assert "--http-max-input-size" in json.loads(body)["error"]
    assert resident_bytes(service) - before < 64 << 20


def test_every_route_with_a_body_takes_it_packed(service: RunningService) -> None:
    answer, body = post(service, "/v2/repository/index", gzip.compress(b'{"ready": true}'), Content_Encoding="gzip")
    assert answer.status == 200
    assert "scores" in {row["name"] for row in json.loads(body)}
    text = zlib.compress(json.dumps({"INPUT0": "a"}).encode())
    answer, body = post(service, "/v2/models/words/generate", text, Content_Encoding="deflate")
    assert json.loads(body)["OUTPUT0"] == "a"


def test_curl_packs_and_unpacks(service: RunningService, tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    (tmp_path / "body.gz").write_bytes(gzip.compress(ROW))
    url = f"{service.url}{INFER}"
    flags = ["--silent", "--fail", "--compressed", "--http1.1", "-H", "Content-Encoding: gzip"]
    command = [curl, *flags, "--data-binary", f"@{tmp_path / 'body.gz'}", url]
    found = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert json.loads(found.stdout)["outputs"][0]["shape"] == [1, 5]


def test_curl_that_offers_http_2_with_a_body_is_answered(service: RunningService) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    url = f"{service.url}{INFER}"
    # What `--http2` adds to a request over plain TCP, also where curl was built without it.
    upgrade = ["-H", "Connection: Upgrade, HTTP2-Settings", "-H", "Upgrade: h2c", "-H", "HTTP2-Settings: AAMAAABk"]
    command = [curl, "--silent", "--fail", "--http1.1", *upgrade, "-d", ROW.decode(), url, url]
    found = subprocess.run(command, capture_output=True, timeout=30, check=True)
    assert found.stdout.count(b'"model_name":"scores"') == 2


@pytest.mark.parametrize("is_binary", [True, False])
def test_classes_come_with_their_labels_for_each_row(
    client: triton_http.InferenceServerClient, is_binary: bool
) -> None:
    rows = np.array([[0.1, 0.9, 0.3, 0.2, 0.5], [5, 4, 3, 2, 1]], np.float32)
    tensor = triton_http.InferInput("INPUT0", [2, 5], "FP32")
    tensor.set_data_from_numpy(rows)
    wanted = [triton_http.InferRequestedOutput("OUTPUT0", binary_data=is_binary, class_count=2)]
    found = client.infer("scores", [tensor], outputs=wanted).as_numpy("OUTPUT0")
    text = [[item.decode() if isinstance(item, bytes) else item for item in row] for row in found]
    assert text == [["0.900000:1:one", "0.500000:4:four"], ["5.000000:0:zero", "4.000000:1:one"]]


def test_a_model_without_a_batch_axis_has_one_list_of_classes(service: RunningService) -> None:
    wish = [{"name": "OUTPUT0", "parameters": {"classification": 3}}]
    body = infer_body([float(value) for value in range(10)], [2, 5], outputs=wish)
    _, content = post(service, "/v2/models/flat/infer", body)
    (output,) = json.loads(content)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [3])
    assert output["data"] == ["9.000000:9", "8.000000:8", "7.000000:7"]


def test_text_has_no_classes(service: RunningService) -> None:
    entry = {"name": "INPUT0", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}
    wish = [{"name": "OUTPUT0", "parameters": {"classification": 1}}]
    body = json.dumps({"inputs": [entry], "outputs": wish}).encode()
    answer, content = post(service, "/v2/models/words/infer", body)
    assert answer.status == 400
    assert "unsupported type 'BYTES'" in json.loads(content)["error"]


def test_tensors_travel_through_a_clients_memory(client: triton_http.InferenceServerClient) -> None:
    row = np.array([[0.1, 0.9, 0.3, 0.2, 0.5]], np.float32)
    region = shared_memory.create_shared_memory_region("forms", "/rest-forms-test", 40)
    try:
        shared_memory.set_shared_memory_region(region, [row])
        client.register_system_shared_memory("forms", "/rest-forms-test", 40)
        tensor = triton_http.InferInput("INPUT0", [1, 5], "FP32")
        tensor.set_shared_memory("forms", 20)
        wanted = triton_http.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory("forms", 20, offset=20)
        output = client.infer("scores", [tensor], outputs=[wanted]).get_output("OUTPUT0")
        found = shared_memory.get_contents_as_numpy(region, np.float32, output["shape"], offset=20)
        np.testing.assert_array_equal(found, row)
        client.unregister_system_shared_memory("forms")
        with pytest.raises(InferenceServerException, match="forms"):
            client.infer("scores", [tensor], outputs=[wanted])
    finally:
        shared_memory.destroy_shared_memory_region(region)


def raw(service: RunningService, model: str, body: bytes) -> tuple[int, dict[str, Any], bytes]:
    answer, content = post(service, f"/v2/models/{model}/infer", body, Inference_Header_Content_Length="0")
    length = int(answer.getheader("Inference-Header-Content-Length") or len(content))
    return answer.status, json.loads(content[:length]), content[length:]


@pytest.mark.parametrize(
    ("model", "count", "shape"), [("scores", 5, [1, 5]), ("flat", 10, [2, 5]), ("open", 6, [3, 2])]
)
def test_a_body_may_be_nothing_but_the_tensor(
    service: RunningService, model: str, count: int, shape: list[int]
) -> None:
    data = np.arange(count, dtype=np.float32).tobytes()
    status, header, tail = raw(service, model, data)
    assert status == 200, header
    assert header["outputs"][0]["shape"] == shape
    assert tail == data


def test_a_raw_text_is_one_element(service: RunningService) -> None:
    status, _, tail = raw(service, "words", "grüße".encode())
    assert status == 200
    assert tail == b"\x07\x00\x00\x00" + "grüße".encode()


def test_a_raw_body_for_several_inputs_is_refused(service: RunningService) -> None:
    status, body, _ = raw(service, "simple", bytes(128))
    assert status == 400
    assert "Raw request must only have 1 input (found 1) to be deduced but got 2 inputs in 'simple'" in body["error"]


def test_every_answer_tells_where_its_time_went(service: RunningService) -> None:
    answer, content = post(service, INFER, ROW)
    parts = [part.strip() for part in (answer.getheader("Server-Timing") or "").split(",")]
    assert [part.partition(";")[0] for part in parts] == ["decode", "queue", "compute", "encode", "batch"]
    assert parts[-1] == 'batch;desc="1"'
    assert all(float(part.partition("dur=")[2]) < 10_000 for part in parts[:-1])
    assert "parameters" not in json.loads(content)


def test_an_answer_tells_its_timings_among_its_parameters_if_asked(service: RunningService) -> None:
    rows = infer_body([1.0] * 10, [2, 5], parameters={"enginehouse_timings": True})
    parameters = json.loads(post(service, INFER, rows)[1])["parameters"]
    assert set(parameters) == {"decode_us", "queue_us", "compute_us", "batch_rows"}
    assert parameters["batch_rows"] == 2
    assert 0 < parameters["compute_us"] < 10_000_000


def test_a_slow_computation_is_told_as_such(service: RunningService) -> None:
    answer, _ = post(service, "/v2/models/slow/infer", SLOW_BODY)
    compute = (answer.getheader("Server-Timing") or "").partition("compute;dur=")[2].partition(",")[0]
    assert float(compute) > 5


def test_the_timeout_header_ends_a_wait(service: RunningService) -> None:
    answer, content = post(service, "/v2/models/slow/infer", SLOW_BODY, X_Request_Timeout_Ms="0.001")
    assert answer.status == 503
    assert "timeout" in json.loads(content)["error"].lower()
    answer, _ = post(service, "/v2/models/slow/infer", SLOW_BODY, X_Request_Timeout_Ms="60000")
    assert answer.status == 200


def test_generate_answers_an_ordinary_model(service: RunningService) -> None:
    body = json.dumps({"INPUT0": "hello", "id": "7", "parameters": {"temperature": 1}}).encode()
    answer, content = post(service, "/v2/models/words/generate", body)
    assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
    assert json.loads(content) == {"id": "7", "model_name": "words", "model_version": "1", "OUTPUT0": "hello"}
    answer, content = post(service, "/v2/models/words/versions/1/generate_stream", body)
    assert answer.getheader("Content-Type") == "text/event-stream; charset=utf-8"
    assert content.startswith(b"data: {")
    assert content.endswith(b"\n\n")
    assert json.loads(content[6:])["OUTPUT0"] == "hello"


@pytest.mark.parametrize("action", ["generate", "generate_stream"])
def test_generate_refuses_like_infer(service: RunningService, action: str) -> None:
    answer, content = post(service, f"/v2/models/simple/{action}", json.dumps({"INPUT0": [1] * 16}).encode())
    assert answer.status == 400
    assert "expected 2 inputs but got 1 inputs" in json.loads(content)["error"]
    answer, content = post(service, f"/v2/models/nobody/{action}", b"{}")
    assert answer.status == 404
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(f"{service.url}/v2/models/words/{action}")


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v2/repository/mine/index", 200, ""),
        ("/v2/repository/mine/models/scores/load", 501, "'repository_name' specification is not supported"),
        ("/v2/repository/mine/models/scores/unload", 501, "'repository_name' specification is not supported"),
    ],
)
def test_the_name_of_a_repository_may_stand_in_the_address(
    service: RunningService, path: str, status: int, message: str
) -> None:
    answer, content = post(service, path, b"")
    assert answer.status == status
    assert message in content.decode()


def encoded(service: RunningService, model: str) -> int:
    text = urllib.request.urlopen(f"{service.url}/metrics").read().decode()
    prefix = f'enginehouse_encode_duration_seconds_count{{model="{model}",version="1"}} '
    (line,) = [line for line in text.splitlines() if line.startswith(prefix)]
    return int(line.removeprefix(prefix))


def test_the_time_of_writing_each_answer_is_counted(service: RunningService) -> None:
    text = json.dumps({"INPUT0": "hello"}).encode()
    before = encoded(service, "words")
    post(service, "/v2/models/words/generate", text)
    post(service, "/v2/models/words/infer", b"text", Inference_Header_Content_Length="0")
    assert encoded(service, "words") == before + 2


def test_a_label_file_that_is_missing_keeps_a_model_from_loading(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "scores", make_identity_model(shape=("batch", 5)), SCORES_CONFIG)
    with start_service(tmp_path) as running:
        answer, content = post(running, "/v2/repository/index", b"")
        (row,) = json.loads(content)
    assert (answer.status, row["state"]) == (200, "UNAVAILABLE")
    assert "label_filename 'labels.txt' of output 'OUTPUT0' cannot be read" in row["reason"]
