"""The stream: each request is answered by itself, and what goes wrong with one is no other's business."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc

from enginehouse.errors import InvalidInput
from enginehouse.proto.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from service.codecs.proto_codec import EMPTY_FINAL
from tests.service.grpc.conftest import Asked, FakeModel, Serve, Served


def inputs() -> list[Any]:
    tensor = triton_grpc.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, np.float32))
    return [tensor]


def ask(model: str, request_id: str, **parameters: Any) -> dict[str, Any]:
    return {"model_name": model, "inputs": inputs(), "request_id": request_id, **parameters}


async def sending(requests: Sequence[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for request in requests:
        yield request


def told(result: Any, error: Any) -> tuple[str, Any, Any]:
    """Id, numbers and whether it was the last; or the message."""
    if error is not None:
        return "error", error.message(), None
    response = result.get_response()
    numbers = result.as_numpy("y")
    is_final = response.parameters["triton_final_response"].bool_param
    return response.id, None if numbers is None else numbers.tolist(), is_final


async def stream(served: Served, *requests: dict[str, Any], **options: Any) -> list[tuple[str, Any, Any]]:
    responses = served.client.stream_infer(sending(requests), **options)
    return [told(result, error) async for result, error in responses]


async def raw_stream(served: Served, *messages: ModelInferRequest | bytes) -> list[ModelStreamInferResponse]:
    """What the client's library cannot say."""
    data = [message if isinstance(message, bytes) else message.SerializeToString() for message in messages]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter(data))
        return [ModelStreamInferResponse.FromString(answer) async for answer in call]


def wants_final(request_id: str, wants: bool = True) -> ModelInferRequest:
    message = ModelInferRequest(model_name="decoupled", id=request_id)
    message.parameters[EMPTY_FINAL].bool_param = wants
    return message


def finals(answers: list[ModelStreamInferResponse]) -> list[tuple[str, int, bool]]:
    """Id, number of outputs and whether it is the last."""
    responses = [answer.infer_response for answer in answers]
    return [(one.id, len(one.outputs), one.parameters["triton_final_response"].bool_param) for one in responses]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def answering_backwards(model: FakeModel, count: int) -> Callable[[Asked], None]:
    def react(_: Asked) -> None:
        if len(model.asked) == count:
            for number, asked in reversed(list(enumerate(model.asked))):
                asked.answer(number)

    return react


async def test_a_decoupled_model_is_heard_as_soon_as_it_answers(serve: Serve) -> None:
    served = await serve()
    served.decoupled.react = answering_backwards(served.decoupled, 3)
    requests = [ask("decoupled", str(number)) for number in range(3)]
    assert await stream(served, *requests) == [("2", [2], True), ("1", [1], True), ("0", [0], True)]


async def test_ordinary_models_are_heard_in_the_order_of_their_requests(serve: Serve) -> None:
    served = await serve()
    served.plain.react = answering_backwards(served.plain, 3)
    requests = [ask("plain", str(number)) for number in range(3)]
    assert await stream(served, *requests) == [("0", [0], True), ("1", [1], True), ("2", [2], True)]


async def test_what_went_wrong_waits_for_its_turn_and_decoupled_models_wait_for_nobody(serve: Serve) -> None:
    served = await serve()
    served.decoupled.react = lambda asked: asked.answer(7)
    requests = [ask("plain", "slow"), ask("nobody", "wrong"), ask("decoupled", "quick")]
    responses = served.client.stream_infer(sending(requests))
    assert told(*await anext(responses)) == ("quick", [7], True)
    served.plain.asked[0].answer(1)
    assert told(*await anext(responses)) == ("slow", [1], True)
    assert told(*await anext(responses))[0] == "error"
    assert [told(*rest) async for rest in responses] == []


async def test_an_answer_that_waits_for_its_turn_keeps_its_place(serve: Serve) -> None:
    served = await serve(max_in_flight=2)
    answers = asyncio.create_task(stream(served, *[ask("plain", str(number)) for number in range(3)]))
    await until(lambda: len(served.plain.asked) == 2)
    served.plain.asked[1].answer(1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(served.plain.asked) == 2
    served.plain.asked[0].answer(0)
    await until(lambda: len(served.plain.asked) == 3)
    served.plain.asked[2].answer(2)
    assert [answer[0] for answer in await answers] == ["0", "1", "2"]


async def test_a_request_that_fails_says_so_and_the_stream_goes_on(serve: Serve) -> None:
    served = await serve()
    served.plain.react = lambda asked: asked.settle(InvalidInput("bad")) if asked.request.id == "b" else asked.answer(1)
    requests = [ask("plain", "a"), ask("nobody", "n"), ask("plain", "b"), ask("plain", "c")]
    answers = await stream(served, *requests)
    assert sorted(answers, key=str) == sorted(
        [
            ("a", [1], True),
            ("c", [1], True),
            ("error", "bad", None),
            ("error", "Request for unknown model: 'nobody' is not found", None),
        ],
        key=str,
    )


async def test_a_decoupled_model_answers_any_number_of_times(serve: Serve) -> None:
    served = await serve()

    def repeat(asked: Asked) -> None:
        for number in range(int(asked.request.id)):
            asked.emit(number)
        asked.answer()

    served.decoupled.react = repeat
    assert await stream(served, ask("decoupled", "2")) == [("2", [0], False), ("2", [1], False)]
    assert await stream(served, ask("decoupled", "0")) == []
    assert finals(await raw_stream(served, wants_final("1"))) == [("1", 1, False), ("1", 0, True)]


async def test_the_last_response_of_a_decoupled_model_may_hold_outputs(serve: Serve) -> None:
    served = await serve()

    def react(asked: Asked) -> None:
        asked.emit(1)
        asked.answer(2)

    served.decoupled.react = react
    for wants in (False, True):
        assert finals(await raw_stream(served, wants_final("a", wants))) == [("a", 1, False), ("a", 1, True)]


async def test_a_decoupled_model_is_refused_where_only_one_answer_can_be_given(serve: Serve) -> None:
    served = await serve()
    with pytest.raises(triton_grpc.InferenceServerException, match="decoupled transaction policy") as refusal:
        await served.client.infer("decoupled", inputs())
    assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"
    assert not served.decoupled.asked


async def test_a_caller_that_leaves_takes_its_requests_along(serve: Serve) -> None:
    served = await serve()
    responses = served.client.stream_infer(sending([ask("plain", "a"), ask("decoupled", "b")]))
    reading = asyncio.ensure_future(anext(responses))
    await until(lambda: bool(served.plain.asked and served.decoupled.asked))
    responses.cancel()
    await until(lambda: served.plain.asked[0].is_cancelled and served.decoupled.asked[0].is_cancelled)
    with pytest.raises((asyncio.CancelledError, triton_grpc.InferenceServerException)):
        await reading


async def test_no_more_is_read_than_may_be_in_flight(serve: Serve) -> None:
    served = await serve(max_in_flight=2)
    answers = asyncio.create_task(stream(served, *[ask("plain", str(number)) for number in range(5)]))
    for number in range(5):
        await until(lambda number=number: len(served.plain.asked) == min(number + 2, 5))  # type: ignore[misc]
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(served.plain.asked) == min(number + 2, 5)
        served.plain.asked[number].answer(number)
    assert [answer[0] for answer in await answers] == ["0", "1", "2", "3", "4"]


async def test_requests_that_fail_give_their_place_back(serve: Serve) -> None:
    served = await serve(max_in_flight=1)
    requests = [ask("nobody", str(number)) for number in range(3)]
    assert [answer[0] for answer in await stream(served, *requests)] == ["error"] * 3
    served.decoupled.react = lambda asked: asked.answer()
    assert await stream(served, *[ask("decoupled", str(number)) for number in range(3)]) == []


async def test_responses_that_nobody_reads_do_not_fill_the_memory(serve: Serve) -> None:
    served = await serve(max_unsent_bytes=10_000)

    def flood(asked: Asked) -> None:
        for number in range(1000):
            asked.emit(number)
        asked.answer()

    served.decoupled.react = flood
    answers = await stream(served, ask("decoupled", "a"))
    assert 1 < len(answers) < 1000
    assert [answer[1] for answer in answers[:-1]] == [[number] for number in range(len(answers) - 1)]
    assert "does not read its responses" in answers[-1][1]
    assert served.decoupled.asked[0].is_cancelled


async def test_what_waits_for_its_turn_does_not_fill_the_memory(serve: Serve) -> None:
    served = await serve(max_unsent_bytes=1000)
    large = list(range(300))
    served.plain.react = lambda asked: asked.answer(*large) if asked.request.id != "0" else None
    answers = asyncio.create_task(stream(served, *[ask("plain", str(number)) for number in range(20)]))
    await until(lambda: len(served.plain.asked) == 2)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(served.plain.asked) == 2
    served.plain.asked[0].answer(*large)
    assert [answer[0] for answer in await answers] == [str(number) for number in range(20)]


async def test_a_request_is_forgotten_with_its_answer(serve: Serve) -> None:
    served = await serve()
    remembered: list[weakref.ref[Asked]] = []

    def react(asked: Asked) -> None:
        remembered.append(weakref.ref(asked))
        asyncio.get_running_loop().call_soon(asked.answer, 1)

    served.plain.react = react
    is_heard = asyncio.Event()

    async def one_and_silence() -> AsyncIterator[dict[str, Any]]:
        yield ask("plain", "a")
        await is_heard.wait()

    responses = served.client.stream_infer(one_and_silence())
    gc.disable()
    try:
        assert told(*await anext(responses)) == ("a", [1], True)
        served.plain.asked.clear()
        await until(lambda: remembered[0]() is None)
    finally:
        gc.enable()
        is_heard.set()
    assert [told(*rest) async for rest in responses] == []


async def test_a_caller_who_leaves_in_the_middle_of_an_answer_is_no_fault(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()
    large = [0.0] * 500_000
    served.plain.react = lambda asked: asked.answer(*large)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        message = ModelInferRequest(model_name="plain").SerializeToString()
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([message] * 10))
        await until(lambda: len(served.plain.asked) == 10)
        call.cancel()
        assert await call.code() is grpc.StatusCode.CANCELLED
    for _ in range(200):
        await asyncio.sleep(0)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_the_first_failure_ends_the_stream_of_a_caller_that_wants_that(serve: Serve) -> None:
    served = await serve()
    requests = [ask("nobody", "a"), ask("plain", "b")]
    with pytest.raises(grpc.aio.AioRpcError, match="unknown model") as failure:
        await stream(served, *requests, headers={"triton_grpc_error": "true"})
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_bytes_that_are_no_message_fail_alone(serve: Serve) -> None:
    served = await serve()
    served.plain.react = lambda asked: asked.answer(1)
    answers = await raw_stream(served, b"\xff\xff", ModelInferRequest(model_name="plain", id="good"))
    assert {answer.infer_response.id for answer in answers} == {"", "good"}
    assert sum("bytes are no ModelInferRequest" in answer.error_message for answer in answers) == 1


async def test_a_failed_request_is_named(serve: Serve) -> None:
    served = await serve()
    (answer,) = await raw_stream(served, ModelInferRequest(model_name="nobody", id="mine", model_version="7"))
    blamed = answer.infer_response
    assert (blamed.id, blamed.model_name, blamed.model_version) == ("mine", "nobody", "7")
    assert blamed.parameters["triton_final_response"].bool_param


async def test_many_streams_at_once_get_their_own_answers(serve: Serve) -> None:
    served = await serve()
    served.plain.react = lambda asked: asked.answer(float(asked.request.id))
    batches = [[ask("plain", str(100 * one + number)) for number in range(20)] for one in range(5)]
    answers = await asyncio.gather(*(stream(served, *batch) for batch in batches))
    for one, batch in enumerate(answers):
        numbers = [100 * one + number for number in range(20)]
        assert batch == [(str(number), [number], True) for number in numbers]


async def hear(call: Any, heard: list[bytes]) -> None:
    async for message in call:
        heard.append(message)


async def test_a_client_who_reads_nothing_is_told_behind_what_it_left_unread(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("service.grpc.patience.WRITE_STALL_SECONDS", 0.3)
    monkeypatch.setattr("service.grpc.patience.MIN_BYTES_PER_SECOND", 1 << 30)
    monkeypatch.setattr("service.grpc.stream.END_SECONDS", 0.2)
    served = await serve()
    large = [0.0] * 500_000

    def flood(asked: Asked) -> None:
        for _ in range(50):
            asked.emit(*large)

    served.decoupled.react = flood
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=UNLIMITED) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(ModelInferRequest(model_name="decoupled").SerializeToString())
        await until(lambda: bool(served.decoupled.asked) and served.decoupled.asked[0].is_cancelled)
        await until(lambda: "left a response unread" in caplog.text)
        await asyncio.sleep(0.5)
        heard: list[bytes] = []
        with pytest.raises(grpc.aio.AioRpcError, match=r"left a response unread for 0\.3 seconds") as ended:
            await hear(call, heard)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert 0 < len(heard) < 50
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_client_who_reads_slowly_hears_all(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.grpc.patience.WRITE_STALL_SECONDS", 2.0)
    monkeypatch.setattr("service.grpc.patience.MIN_BYTES_PER_SECOND", 1 << 30)
    served = await serve()
    large = [0.0] * 200_000

    def much(asked: Asked) -> None:
        for _ in range(12):
            asked.emit(*large)
        asked.answer()

    served.decoupled.react = much
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=UNLIMITED) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")()
        await call.write(ModelInferRequest(model_name="decoupled").SerializeToString())
        await call.done_writing()
        count = 0
        async for _ in call:
            count += 1
            await asyncio.sleep(0.25)
    assert count == 12


UNLIMITED = [("grpc.max_receive_message_length", -1)]


async def test_no_more_streams_are_open_than_may_be(serve: Serve) -> None:
    served = await serve(max_streams=2)
    served.plain.react = lambda asked: asked.answer(1)
    message = ModelInferRequest(model_name="plain").SerializeToString()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        open_stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        held = [open_stream() for _ in range(2)]
        for call in held:
            await call.write(message)
            assert await call.read()
        with pytest.raises(grpc.aio.AioRpcError, match="--grpc-max-streams") as refused:
            await open_stream().read()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await held[0].done_writing()
        assert await held[0].code() is grpc.StatusCode.OK
        again = open_stream()
        await again.write(message)
        assert await again.read()
        for call in (held[1], again):
            call.cancel()


async def test_no_more_connections_are_open_than_may_be(serve: Serve) -> None:
    served = await serve(max_connections=2)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    peers = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(preface)
        assert await asyncio.wait_for(reader.readexactly(9), 10)
        peers.append(writer)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        writer.write(preface)
        assert await asyncio.wait_for(reader.read(), 10) == b""
    except ConnectionResetError:
        pass
    for one in (*peers, writer):
        one.close()
