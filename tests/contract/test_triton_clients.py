"""What the example clients that Triton ships for Python do, against a server that says it is Triton."""

import asyncio
import json
import queue
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from enginehouse.dtype import Array
from tests.conftest import RunningService, StartService
from tests.contract.triton_repository import write_eighth, write_others, write_seven

ROWS: Array = np.arange(16, dtype=np.int32).reshape(1, 16)
ONES: Array = np.ones((1, 16), np.int32)


@pytest.fixture(scope="module")
def triton(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("triton") / "models"
    write_seven(repository)
    write_eighth(repository)
    write_others(repository)
    flags = ["--id", "triton", "--model-control-mode", "explicit", "--load-model", "*", "--allow-client-shm", "true"]
    with start_service(repository, *flags) as running:
        yield running


@pytest.fixture
def http(triton: RunningService) -> Iterator[httpclient.InferenceServerClient]:
    with httpclient.InferenceServerClient(f"127.0.0.1:{triton.http_port}") as client:
        yield client


@pytest.fixture
def rpc(triton: RunningService) -> Iterator[grpcclient.InferenceServerClient]:
    with grpcclient.InferenceServerClient(f"127.0.0.1:{triton.grpc_port}") as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def kind(request: pytest.FixtureRequest) -> Any:
    """A client, and the module whose words it speaks."""
    if request.param == "http":
        return request.getfixturevalue("http"), httpclient
    return request.getfixturevalue("rpc"), grpcclient


def simple_inputs(module: Any, first: Array = ROWS, second: Array = ONES, dtype: str = "INT32") -> list[Any]:
    inputs = [module.InferInput(name, list(first.shape), dtype) for name in ("INPUT0", "INPUT1")]
    for given, array in zip(inputs, (first, second), strict=True):
        given.set_data_from_numpy(array)
    return inputs


def check_sums(result: Any) -> None:
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), ROWS + ONES)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), ROWS - ONES)


def test_health_and_metadata(kind: Any) -> None:
    client, module = kind
    more = {"query_params": {"test_1": 1, "test_2": 2}} if module is httpclient else {}
    assert client.is_server_live(**more)
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    metadata = client.get_server_metadata()
    model = client.get_model_metadata("simple", **more)
    if module is httpclient:
        assert (metadata["name"], model["name"]) == ("triton", "simple")
    else:
        assert (metadata.name, model.name) == ("triton", "simple")
        assert client.get_model_config("simple").config.name == "simple"
    with pytest.raises(InferenceServerException, match="Request for unknown model") as refused:
        client.get_model_metadata("wrong_model_name")
    assert refused.value.status() in ("404", "StatusCode.NOT_FOUND")


def test_infer_with_and_without_outputs_headers_and_compression(http: httpclient.InferenceServerClient) -> None:
    inputs = simple_inputs(httpclient)
    inputs[0].set_data_from_numpy(ROWS, binary_data=False)
    outputs = [httpclient.InferRequestedOutput("OUTPUT0", binary_data=True)]
    outputs.append(httpclient.InferRequestedOutput("OUTPUT1", binary_data=False))
    for algorithm in (None, "gzip", "deflate"):
        for wanted in (outputs, None):
            result = http.infer(
                "simple",
                inputs,
                outputs=wanted,
                query_params={"test_1": 1},
                headers={"test": "1"},
                request_compression_algorithm=algorithm,
                response_compression_algorithm=algorithm,
            )
            check_sums(result)
    (statistics,) = http.get_inference_statistics("simple")["model_stats"]
    assert statistics["name"] == "simple"


def test_infer_over_grpc_with_compression_and_a_timeout(rpc: grpcclient.InferenceServerClient) -> None:
    outputs = [grpcclient.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for algorithm in (None, "gzip", "deflate"):
        check_sums(
            rpc.infer(
                "simple",
                simple_inputs(grpcclient),
                outputs=outputs,
                client_timeout=20,
                headers={"test": "1"},
                compression_algorithm=algorithm,
            )
        )
    assert len(rpc.get_inference_statistics("simple").model_stats) == 1


def test_text_in_and_out(kind: Any) -> None:
    client, module = kind
    first, second = (np.array([str(item).encode() for item in array.ravel()], object).reshape(1, 16)
                     for array in (ROWS, ONES))  # fmt: skip
    result = client.infer("simple_string", simple_inputs(module, first, second, "BYTES"))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0").astype(np.int32), ROWS + ONES)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1").astype(np.int32), ROWS - ONES)


def test_asynchronous_calls(kind: Any) -> None:
    client, module = kind
    if module is httpclient:
        for answer in [client.async_infer("simple", simple_inputs(module)) for _ in range(4)]:
            check_sums(answer.get_result())
        return
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(4):
        client.async_infer("simple", simple_inputs(module), lambda result, error: heard.put((result, error)))
    for _ in range(4):
        result, error = heard.get(timeout=30)
        assert error is None
        check_sums(result)


async def test_asyncio_clients(triton: RunningService) -> None:
    async with (
        httpaio.InferenceServerClient(f"127.0.0.1:{triton.http_port}") as http_client,
        grpcaio.InferenceServerClient(f"127.0.0.1:{triton.grpc_port}") as grpc_client,
    ):
        answers = await asyncio.gather(
            *(http_client.infer("simple", simple_inputs(httpclient)) for _ in range(3)),
            *(grpc_client.infer("simple", simple_inputs(grpcclient)) for _ in range(3)),
        )
        assert await grpc_client.is_server_ready()
    for answer in answers:
        check_sums(answer)


@pytest.mark.parametrize(
    ("model", "dtype", "field"),
    [
        ("simple", "INT32", "int_contents"),
        ("simple_int8", "INT8", "int_contents"),
        ("simple_string", "BYTES", "bytes_contents"),
    ],
)
def test_explicit_contents(triton: RunningService, model: str, dtype: str, field: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=model, id="my request id")
    for name, array in (("INPUT0", ROWS), ("INPUT1", ONES)):
        tensor = request.inputs.add(name=name, datatype=dtype, shape=[1, 16])
        items = [str(item).encode() if dtype == "BYTES" else int(item) for item in array.ravel()]
        getattr(tensor.contents, field).extend(items)
    request.outputs.add(name="OUTPUT0")
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}") as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert answer.id == "my request id"
    (raw,) = answer.raw_output_contents
    if dtype == "BYTES":
        expected = serialize_byte_tensor(np.array([str(item).encode() for item in (ROWS + ONES).ravel()], object))
        assert raw == expected.item()
    else:
        assert raw == (ROWS + ONES).astype({"INT32": np.int32, "INT8": np.int8}[dtype]).tobytes()


def test_contents_beside_raw_contents_are_refused_in_tritons_words(triton: RunningService) -> None:
    """Also where fewer raw contents than inputs are there: the contents that should not be are told first."""
    request = service_pb2.ModelInferRequest(model_name="simple", raw_input_contents=[ROWS.tobytes()[:32]])
    for name in ("INPUT0", "INPUT1"):
        tensor = request.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        tensor.contents.int_contents.extend(range(16))
    words = "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'"
    with grpc.insecure_channel(f"127.0.0.1:{triton.grpc_port}") as channel, pytest.raises(grpc.RpcError, match=words):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)


def test_model_control(kind: Any) -> None:
    client, _ = kind
    assert client.is_model_ready("simple_identity")
    client.unload_model("simple_identity")
    assert not client.is_model_ready("simple_identity")
    client.load_model("simple_identity")
    assert client.is_model_ready("simple_identity")
    known = "failed to load 'wrong_model_name', failed to poll from model repository"
    with pytest.raises(InferenceServerException, match=known) as refused:
        client.load_model("wrong_model_name")
    assert refused.value.status() in ("400", "404", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")


def test_a_load_with_a_configuration(kind: Any) -> None:
    client, module = kind
    with pytest.raises(InferenceServerException, match="failed to load"):
        client.load_model("simple_int8", config='"parameters": {"config": {{"max_batch_size": "16"}}}')
    client.load_model("simple_int8", config=json.dumps({"max_batch_size": "16"}))
    config = client.get_model_config("simple_int8")
    size = config["max_batch_size"] if module is httpclient else config.config.max_batch_size
    assert size == 16
    client.load_model("simple_int8")


# ids, values, and the answers: one more at the start, the id added at the end by the model that knows ids
VALUES = (11, 7, 5, 3, 2, 0, 1)


@pytest.mark.parametrize(("model", "id_at_end"), [("simple_sequence", 0), ("simple_dyna_sequence", 1)])
def test_sequences_side_by_side(kind: Any, model: str, id_at_end: int) -> None:
    client, module = kind
    ask = partial(ask_in_sequence, client, module, model)
    first, second = 1007, 1008
    assert ask(first, 0, start=True) == 1
    assert ask(second, 100, start=True) == 101
    for item in VALUES:
        is_last = item == 1
        assert ask(first, item, end=is_last) == item + (first * id_at_end if is_last else 0)
        assert ask(second, -item, end=is_last) == -item + (second * id_at_end if is_last else 0)


def test_sequences_named_by_text(kind: Any) -> None:
    client, module = kind
    ask = partial(ask_in_sequence, client, module, "simple_sequence", "named by text")
    assert [ask(3, start=True), ask(5), ask(7, end=True)] == [4, 5, 7]
    with pytest.raises(InferenceServerException, match="sequence"):
        ask(1)


def test_a_sequence_named_by_text_adds_up_and_ends_on_its_own_number(kind: Any) -> None:
    client, module = kind
    ask = partial(ask_in_sequence, client, module, "simple_string_dyna_sequence", "1002")
    assert [ask(20, start=True), ask(-11), ask(-7, end=True)] == [20, 9, 2 + 1002]


def ask_in_sequence(
    client: Any, module: Any, model: str, sequence: int | str, number: int, *, start: bool = False, end: bool = False
) -> int:
    given = module.InferInput("INPUT", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[number]], np.int32))
    result = client.infer(model, [given], sequence_id=sequence, sequence_start=start, sequence_end=end)
    return int(result.as_numpy("OUTPUT")[0][0])


def test_sequences_in_one_stream(rpc: grpcclient.InferenceServerClient) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    rpc.start_stream(callback=lambda result, error: heard.put((result, error)))
    sent = [(sequence, position, item) for position, item in enumerate((0, *VALUES)) for sequence in (31, 32)]
    for sequence, position, item in sent:
        given = grpcclient.InferInput("INPUT", [1, 1], "INT32")
        given.set_data_from_numpy(np.array([[item]], np.int32))
        rpc.async_stream_infer(
            "simple_sequence",
            [given],
            request_id=f"{sequence}_{position}",
            sequence_id=sequence,
            sequence_start=position == 0,
            sequence_end=position == len(VALUES),
        )
    answers: dict[str, int] = {}
    for _ in sent:
        result, error = heard.get(timeout=30)
        assert error is None
        answers[result.get_response().id] = int(result.as_numpy("OUTPUT")[0][0])
    rpc.stop_stream()
    assert answers == {f"{name}_{position}": item + (position == 0) for name, position, item in sent}


def test_an_ensemble_answers_like_one_model(kind: Any) -> None:
    client, module = kind
    result = client.infer("simple_ensemble", simple_inputs(module))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * ROWS)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), 2 * ONES)


def test_a_decoupled_model_answers_once_for_each_element(rpc: grpcclient.InferenceServerClient) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    rpc.start_stream(callback=lambda result, error: heard.put((result, error)))
    arrays = {"IN": np.array([4, 2, 0], np.int32), "DELAY": np.zeros(3, np.uint32), "WAIT": np.zeros(1, np.uint32)}
    inputs = []
    for name, array in arrays.items():
        inputs.append(grpcclient.InferInput(name, list(array.shape), "INT32" if name == "IN" else "UINT32"))
        inputs[-1].set_data_from_numpy(array)
    rpc.async_stream_infer("repeat_int32", inputs, request_id="r", enable_empty_final_response=True)
    found: list[int] = []
    while True:
        result, error = heard.get(timeout=30)
        assert error is None, error
        response = result.get_response()
        if response.parameters["triton_final_response"].bool_param:
            break
        found.append(int(result.as_numpy("OUT")[0]))
    rpc.stop_stream()
    assert found == [4, 2, 0]


def test_errors_come_in_the_stream_and_it_lives_on(rpc: grpcclient.InferenceServerClient) -> None:
    heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
    rpc.start_stream(callback=lambda result, error: heard.put((result, error)))
    rpc.async_stream_infer("nobody", simple_inputs(grpcclient))
    result, error = heard.get(timeout=30)
    assert result is None
    assert "unknown model" in str(error)
    rpc.async_stream_infer("simple", simple_inputs(grpcclient))
    result, error = heard.get(timeout=30)
    assert error is None
    check_sums(result)
    rpc.stop_stream()


def test_tensors_in_shared_memory_and_objects_that_are_used_again(kind: Any) -> None:
    client, module = kind
    size = ROWS.nbytes
    incoming = shm.create_shared_memory_region("incoming", f"/incoming_{module.__name__[-4:]}", 2 * size)
    outgoing = shm.create_shared_memory_region("outgoing", f"/outgoing_{module.__name__[-4:]}", 2 * size)
    try:
        client.unregister_system_shared_memory()
        shm.set_shared_memory_region(incoming, [ROWS, ONES])
        client.register_system_shared_memory("incoming", f"/incoming_{module.__name__[-4:]}", 2 * size)
        client.register_system_shared_memory("outgoing", f"/outgoing_{module.__name__[-4:]}", 2 * size)
        inputs, outputs = in_regions(module, size)
        result = client.infer("simple", inputs, outputs=outputs)
        for position, expected in enumerate((ROWS + ONES, ROWS - ONES)):
            array = shm.get_contents_as_numpy(outgoing, np.int32, [1, 16], offset=position * size)
            np.testing.assert_array_equal(array, expected)
        told = result.get_output("OUTPUT0")
        assert told is not None
        assert module is grpcclient or "parameters" not in told
        # The same objects, with data of their own again.
        for given, array in zip(inputs, (ROWS, ONES), strict=True):
            given.set_data_from_numpy(array)
        for wanted in outputs:
            wanted.unset_shared_memory()
        check_sums(client.infer("simple", inputs, outputs=outputs))
        status = client.get_system_shared_memory_status()
        regions = {region["name"] for region in status} if module is httpclient else set(status.regions)
        assert regions == {"incoming", "outgoing"}
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(incoming)
        shm.destroy_shared_memory_region(outgoing)


def in_regions(module: Any, size: int) -> tuple[list[Any], list[Any]]:
    inputs = [module.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    outputs = [module.InferRequestedOutput(name) for name in ("OUTPUT0", "OUTPUT1")]
    for position in range(2):
        inputs[position].set_shared_memory("incoming", size, offset=position * size)
        outputs[position].set_shared_memory("outgoing", size, offset=position * size)
    return inputs, outputs


def test_classes_in_place_of_numbers(kind: Any) -> None:
    client, module = kind
    outputs = [module.InferRequestedOutput("OUTPUT0", class_count=3)]
    found: Sequence[bytes] = client.infer("simple", simple_inputs(module), outputs=outputs).as_numpy("OUTPUT0").ravel()
    assert [item.decode() for item in found] == ["16:15", "15:14", "14:13"]


def test_trace_and_log_settings(kind: Any) -> None:
    client, module = kind
    words = {"as_json": True} if module is grpcclient else {}
    client.update_log_settings({"log_verbose_level": 1}, **words)
    settings = client.get_log_settings(**words)
    assert "log_verbose_level" in (settings["settings"] if module is grpcclient else settings)
    client.update_log_settings({"log_verbose_level": 0})
    client.update_trace_settings(settings={"trace_rate": "7"})
    traced = client.get_trace_settings(model_name="simple", **words)
    rate = traced["settings"]["trace_rate"]["value"] if module is grpcclient else traced["trace_rate"]
    assert rate in ("7", ["7"])
    client.update_trace_settings(settings={"trace_rate": None})
    with pytest.raises(InferenceServerException, match="trace file location"):
        client.update_trace_settings(settings={"trace_file": "/tmp/elsewhere"})
