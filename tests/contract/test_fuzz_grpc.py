"""Random bytes in place of each message: refused by name, and the server goes on."""

from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enginehouse.proto import grpc_service_pb2 as pb
from tests.conftest import RunningService

RPCS = sorted(
    method.name
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if method.name != "ModelStreamInfer"
)
# INTERNAL is what grpc itself answers for bytes that are no message, before any code of ours.
TOLD = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.ALREADY_EXISTS,
}  # fmt: skip
PATIENT = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def channel(service: RunningService) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc_port}") as opened:
        yield opened


def valid_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="identity_fp32", raw_input_contents=[bytes(12)])
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 3])
    request.parameters["priority"].int64_param = 1
    return request


def status_of(channel: grpc.Channel, rpc: str, message: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        channel.unary_unary(f"/inference.GRPCInferenceService/{rpc}")(message, timeout=20)
    except grpc.RpcError as refused:
        return refused.code(), refused.details()
    return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("rpc", RPCS)
@PATIENT
@given(message=st.binary(max_size=120))
def test_any_bytes_are_answered(channel: grpc.Channel, rpc: str, message: bytes) -> None:
    code, details = status_of(channel, rpc, message)
    assert code in {*TOLD, grpc.StatusCode.OK}, (rpc, code, details)
    assert status_of(channel, "ServerLive", b"")[0] is grpc.StatusCode.OK


@settings(PATIENT, max_examples=300)
@given(
    places=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 60),
)
def test_a_request_with_changed_bytes_is_invalid_or_answered(
    channel: grpc.Channel, places: list[tuple[int, int]], cut: int
) -> None:
    message = bytearray(valid_request().SerializeToString())
    for place, value in places:
        message[place % len(message)] = value
    code, details = status_of(channel, "ModelInfer", bytes(message[: len(message) - cut]))
    assert code in {*TOLD, grpc.StatusCode.OK}, (code, details)
    if code is grpc.StatusCode.INTERNAL:
        assert "deserializing" in details, details


@PATIENT
@given(messages=st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_a_stream_of_any_bytes_ends_or_goes_on_and_never_hangs(channel: grpc.Channel, messages: list[bytes]) -> None:
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    call = stream(iter(messages), timeout=20)
    with suppress(grpc.RpcError):
        for answer in call:
            assert pb.ModelStreamInferResponse.FromString(answer) is not None
    assert call.code() in {*TOLD, grpc.StatusCode.OK}, call.details()
