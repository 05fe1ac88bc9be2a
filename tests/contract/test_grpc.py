"""The gRPC form, with the real client and with plain grpcio."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from enginehouse.dtype import DTYPES, array_from_bytes
from enginehouse.proto import grpc_service_pb2 as pb
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from tests.conftest import RunningService


@pytest.fixture
def client(service: RunningService) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as opened:
        yield opened


@pytest.fixture
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as opened:
        yield opened


def infer(channel: grpc.Channel, request: ModelInferRequest) -> ModelInferResponse:
    method = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        request_serializer=ModelInferRequest.SerializeToString,
        response_deserializer=ModelInferResponse.FromString,
    )
    answer: ModelInferResponse = method(request, timeout=30)
    return answer


def typed_request(model: str, datatype: str, shape: tuple[int, ...], **contents: list[object]) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="INPUT0", datatype=datatype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    return request


def test_health_and_metadata(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert client.get_server_metadata().name == "enginehouse"
    metadata = client.get_model_metadata("simple")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("INPUT0", "INT32", [-1, 16]),
        ("INPUT1", "INT32", [-1, 16]),
    ]


def test_config_statistics_and_index(client: Any) -> None:
    assert client.get_model_config("simple").config.max_batch_size == 4
    assert client.get_inference_statistics("simple").model_stats[0].name == "simple"
    assert {model.name for model in client.get_inference_statistics().model_stats} >= {"simple", "fixed"}
    states = {(model.name, model.version): model.state for model in client.get_model_repository_index().models}
    assert states["versions", "3"] == "READY"


def test_models_load_and_unload(client: Any) -> None:
    client.unload_model("identity_uint8")
    assert not client.is_model_ready("identity_uint8")
    with pytest.raises(triton_grpc.InferenceServerException, match="failed to load") as refusal:
        client.load_model("identity_uint8", config='{"max_batch_size": -2}')
    assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    client.load_model("identity_uint8", config='{"max_batch_size": 2}')
    assert client.get_model_config("identity_uint8").config.max_batch_size == 2
    client.load_model("identity_uint8")
    assert client.get_model_config("identity_uint8").config.max_batch_size == 4


def test_requested_outputs_and_request_id(client: Any) -> None:
    tensors = []
    for number in (0, 1):
        tensor = triton_grpc.InferInput(f"INPUT{number}", [1, 16], "INT32")
        tensor.set_data_from_numpy(np.full((1, 16), number + 2, np.int32))
        tensors.append(tensor)
    outputs = [triton_grpc.InferRequestedOutput("OUTPUT1")]
    answer = client.infer("simple", tensors, outputs=outputs, request_id="seven")
    assert answer.get_response().id == "seven"
    assert answer.as_numpy("OUTPUT0") is None
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), np.full((1, 16), -1))


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False, True]),
        ("UINT8", "uint_contents", [0, 255, 7]),
        ("UINT16", "uint_contents", [0, 65535, 7]),
        ("UINT32", "uint_contents", [0, 2**32 - 1, 7]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1, 7]),
        ("INT8", "int_contents", [-128, 127, 0]),
        ("INT16", "int_contents", [-32768, 32767, 0]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1, 0]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1, 0]),
        ("FP32", "fp32_contents", [1.5, -2.5, 0.0]),
        ("FP64", "fp64_contents", [1e300, -2.5, 0.0]),
        ("BYTES", "bytes_contents", [b"one", b"", "é".encode()]),
    ],
)
def test_typed_contents_are_answered_raw(
    channel: grpc.Channel, datatype: str, field: str, values: list[object]
) -> None:
    model = f"identity_{datatype.lower()}"
    answer = infer(channel, typed_request(model, datatype, (1, 3), **{field: values}))
    raw = ModelInferRequest(model_name=model, raw_input_contents=answer.raw_output_contents)
    raw.inputs.add(name="INPUT0", datatype=datatype, shape=(1, 3))
    assert infer(channel, raw).raw_output_contents == answer.raw_output_contents
    assert len(answer.raw_output_contents) == 1
    assert not answer.outputs[0].HasField("contents")


def test_a_message_far_above_grpcs_default_goes_through(client: Any) -> None:
    tensor = triton_grpc.InferInput("INPUT0", [1, 3], "BYTES")
    tensor.set_data_from_numpy(np.array([["x" * 6_000_000, "y", "z"]], dtype=object))
    answer = client.infer("identity_bytes", [tensor]).as_numpy("OUTPUT0")
    assert answer is not None
    assert len(answer[0, 0]) == 6_000_000


def mixed_contents() -> ModelInferRequest:
    request = typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1, 2, 3])
    request.raw_input_contents.append(bytes(12))
    return request


def repeated_output() -> ModelInferRequest:
    request = typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1, 2, 3])
    request.outputs.add(name="OUTPUT0")
    request.outputs.add(name="OUTPUT0")
    return request


def classification(classes: int) -> ModelInferRequest:
    request = typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1, 2, 3])
    request.outputs.add(name="OUTPUT0").parameters["classification"].int64_param = classes
    return request


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (typed_request("nobody", "FP32", (0,)), "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        (typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1]), "INVALID_ARGUMENT", "number of elements 1"),
        (typed_request("identity_fp32", "FP32", (1, 3), fp64_contents=[1]), "INVALID_ARGUMENT", "fp32_contents"),
        (typed_request("identity_fp32", "FP64", (1, 3), fp64_contents=[1, 2, 3]), "INVALID_ARGUMENT", "data-type"),
        (typed_request("identity_fp32", "FP32", (1, -3)), "INVALID_ARGUMENT", "sizes from 0"),
        (typed_request("identity_fp16", "FP16", (1, 3), fp32_contents=[1, 2, 3]), "INVALID_ARGUMENT", "raw_input"),
        (typed_request("identity_int8", "INT8", (1, 3), int_contents=[1, 2, 300]), "INVALID_ARGUMENT", "300"),
        (typed_request("identity_fp32", "FP32", (9, 3), fp32_contents=[0] * 27), "INVALID_ARGUMENT", "batch-size"),
        (mixed_contents(), "INVALID_ARGUMENT", "contents field must not be specified when using raw_input_contents"),
        (repeated_output(), "INVALID_ARGUMENT", "more than once"),
        (classification(-1), "INVALID_ARGUMENT", "'classification' of output 'OUTPUT0' is -1"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason(
    channel: grpc.Channel, request_: ModelInferRequest, code: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        infer(channel, request_)
    assert refusal.value.code().name == code
    assert message in refusal.value.details()


def test_the_highest_classes_are_told(channel: grpc.Channel) -> None:
    answer = infer(channel, classification(2))
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [1, 2])
    told = array_from_bytes(answer.raw_output_contents[0], DTYPES["BYTES"], (2,)).tolist()
    assert [item.decode().split(":")[1] for item in told] == ["2", "1"]


def test_where_the_time_went_is_told_on_request(channel: grpc.Channel) -> None:
    request = typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1, 2, 3])
    assert not infer(channel, request).parameters
    request.parameters["enginehouse_timings"].bool_param = True
    told = infer(channel, request).parameters
    assert set(told) == {"decode_us", "queue_us", "compute_us", "batch_rows"}
    assert told["batch_rows"].int64_param == 1


def test_every_rpc_of_the_protocol_is_answered(channel: grpc.Channel) -> None:
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    assert len(service.methods) == 20
    for method in service.methods:
        path = f"/inference.GRPCInferenceService/{method.name}"
        if method.client_streaming:
            assert list(channel.stream_stream(path)(iter([]), timeout=30)) == []
            continue
        call = channel.unary_unary(path).future(b"", timeout=30)
        assert call.code() is not grpc.StatusCode.UNKNOWN, method.name
        assert "Method not found" not in call.details(), method.name


def test_bytes_that_are_no_message_are_the_callers_fault(channel: grpc.Channel) -> None:
    (service,) = pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods:
        if not method.client_streaming:
            with pytest.raises(grpc.RpcError) as refusal:
                channel.unary_unary(f"/inference.GRPCInferenceService/{method.name}")(b"\xff\xff\xff", timeout=30)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method.name
            assert "3 bytes are no " in refusal.value.details()


def test_random_bytes_never_hurt_the_server(channel: grpc.Channel) -> None:
    method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    random = np.random.default_rng(0)
    for size in range(1, 60):
        with pytest.raises(grpc.RpcError):
            method(random.bytes(size), timeout=30)
    answer = infer(channel, typed_request("identity_fp32", "FP32", (1, 3), fp32_contents=[1, 2, 3]))
    assert answer.raw_output_contents[0] == np.array([1, 2, 3], np.float32).tobytes()


def test_the_standard_health_service_answers(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "inference.GRPCInferenceService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_and_describes_the_services(channel: grpc.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.GRPCInferenceService"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, ours, health = stub.ServerReflectionInfo(iter(requests), timeout=30)
    names = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names
    described = descriptor_pb2.FileDescriptorProto.FromString(ours.file_descriptor_response.file_descriptor_proto[0])
    assert len(described.service[0].method) == 20
    assert health.HasField("file_descriptor_response")
