"""`generate` and `generate_stream` over models that answer once, never, often, or fail on the way."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from enginehouse.errors import EngineFailed, Overloaded
from service.http.waiting import MAX_UNREAD
from service.request import InferRequest, InferResponse, Settle
from tests.service.http.conftest import END, House, text_response

BODY = {"PROMPT": "hello", "COUNT": 2, "parameters": {"temperature": 0.5, "loud": True}}


def once(_request: InferRequest, settle: Settle) -> None:
    settle(text_response("HELLO", {"tokens": 3}))


def emit(request: InferRequest, *texts: str) -> None:
    assert request.emit is not None
    for text in texts:
        request.emit(text_response(text))


def often(*texts: str, last: InferResponse | Exception = END) -> Callable[[InferRequest, Settle], None]:
    def answer(request: InferRequest, settle: Settle) -> None:
        emit(request, *texts)
        settle(last)  # type: ignore[arg-type]

    return answer


def events(answer: httpx.Response) -> list[Any]:
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.endswith("\n\n")
    lines = answer.text[:-2].split("\n\n")
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_generate_answers_one_flat_object(house: House) -> None:
    model = house.serve(once)
    answer = await house.ask("generate", {**BODY, "id": "seven"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"model_name": "talker", "model_version": "1", "tokens": 3, "TEXT": "HELLO"}
    assert answer.headers["server-timing"].startswith("decode;dur=1.000, queue;dur=2.000, compute;dur=3.000, encode")
    (request,) = model.asked
    assert request.id == "seven"
    assert request.parameters == {"temperature": 0.5, "loud": True}
    assert {wire.name: (wire.dtype.name, wire.shape, bytes(wire.data)) for wire in request.inputs} == {
        "PROMPT": ("BYTES", (1,), b"\x05\x00\x00\x00hello"),
        "COUNT": ("INT32", (1,), b"\x02\x00\x00\x00"),
    }


@pytest.mark.parametrize("is_decoupled", [False, True])
async def test_the_stream_of_one_answer_is_one_event(house: House, is_decoupled: bool) -> None:
    house.serve(often("HELLO") if is_decoupled else once, is_decoupled)
    (event,) = events(await house.ask("generate_stream", BODY))
    assert event["TEXT"] == "HELLO"


async def test_each_answer_of_a_decoupled_model_is_an_event(house: House) -> None:
    house.serve(often("a", "b", "c", last=text_response("d")), is_decoupled=True)
    assert [event["TEXT"] for event in events(await house.ask("generate_stream", BODY))] == ["a", "b", "c", "d"]


async def test_an_event_comes_when_it_is_there_and_not_with_the_last(house: House) -> None:
    settles: list[tuple[InferRequest, Settle]] = []

    def answer(request: InferRequest, settle: Settle) -> None:
        settles.append((request, settle))
        emit(request, "one")

    house.serve(answer, is_decoupled=True)
    async with house.client.stream("POST", "/v2/models/talker/generate_stream", json=BODY) as reply:
        chunks = reply.aiter_raw()
        assert b'"one"' in await anext(chunks)
        request, settle = settles[0]
        emit(request, "two")
        assert b'"two"' in await anext(chunks)
        settle(END)
        assert [chunk async for chunk in chunks] == []


async def test_a_failure_before_the_first_answer_is_the_status(house: House) -> None:
    house.serve(often(last=Overloaded("too many")), is_decoupled=True)
    for action in ("generate", "generate_stream"):
        answer = await house.ask(action, BODY)
        assert (answer.status_code, answer.json()) == (503, {"error": "too many"})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["retry-after"]


async def test_a_failure_on_the_way_is_the_last_event(house: House) -> None:
    house.serve(often("a", last=EngineFailed("broke")), is_decoupled=True)
    answer = await house.ask("generate_stream", BODY)
    assert answer.status_code == 200
    assert events(answer)[1:] == [{"error": "broke"}]
    answer = await house.ask("generate", BODY)
    assert (answer.status_code, answer.json()) == (500, {"error": "broke"})


async def test_no_answer_at_all_is_an_empty_stream(house: House) -> None:
    house.serve(often(), is_decoupled=True)
    answer = await house.ask("generate_stream", BODY)
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("texts", [(), ("a", "b"), ("a", "b", "c")])
async def test_generate_takes_exactly_one_answer(house: House, texts: tuple[str, ...]) -> None:
    house.serve(often(*texts), is_decoupled=True)
    answer = await house.ask("generate", BODY)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("generate expects model to produce exactly 1 response")


async def test_infer_refuses_a_decoupled_model(house: House) -> None:
    house.serve(often("a"), is_decoupled=True)
    answer = await house.ask("infer", {"inputs": []})
    assert answer.status_code == 501
    assert "doesn't support models with decoupled transaction policy" in answer.json()["error"]


async def test_a_reader_that_leaves_takes_its_request_along(house: House) -> None:
    model = house.serve(lambda request, _: emit(request, "one"), is_decoupled=True)
    async with house.client.stream("POST", "/v2/models/talker/generate_stream", json=BODY) as answer:
        await anext(answer.aiter_raw())
    await asyncio.wait_for(model.left.wait(), 30)


@pytest.mark.parametrize("action", ["generate", "generate_stream"])
async def test_a_caller_that_leaves_before_any_answer_takes_its_request_along(house: House, action: str) -> None:
    asked = asyncio.Event()
    model = house.serve(lambda *_: asked.set(), is_decoupled=True)
    call = asyncio.create_task(house.ask(action, BODY))
    await asyncio.wait_for(asked.wait(), 30)
    call.cancel()
    await asyncio.wait_for(model.left.wait(), 30)


async def test_more_answers_than_anybody_reads_end_the_request(house: House) -> None:
    model = house.serve(often(*["a"] * (MAX_UNREAD + 5)), is_decoupled=True)
    found = events(await house.ask("generate_stream", BODY))
    assert len(found) == MAX_UNREAD + 1
    assert "answers wait to be read" in found[-1]["error"]
    assert model.left.is_set()


async def test_large_answers_that_nobody_reads_end_the_request_sooner(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.http.waiting.MAX_UNREAD_BYTES", 10_000)
    model = house.serve(often(*["a" * 3000] * 9), is_decoupled=True)
    found = events(await house.ask("generate_stream", BODY))
    assert len(found) == 4
    assert "3 answers wait to be read" in found[-1]["error"]
    assert model.left.is_set()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "an object is expected"),
        ({"PROMPT": 7, "COUNT": 1}, "must be strings"),
        ({"PROMPT": {"a": 1}, "COUNT": 1}, "must be strings"),
        ({"PROMPT": "a", "COUNT": "1"}, "must be whole numbers"),
        ({"PROMPT": ["a", "b"], "COUNT": 1}, "The schema can not convert input 'PROMPT' to tensor"),
        ({"PROMPT": [], "COUNT": 1}, "The schema can not convert input 'PROMPT' to tensor"),
        ({"PROMPT": "a", "COUNT": 1, "more": {"a": 1}}, "parameter 'more' of the request must be"),
        ({"PROMPT": "a", "COUNT": 1, "triton_x": 1}, "reserved"),
        ({"PROMPT": "a", "COUNT": 1, "parameters": 1}, "Expected JSON object for keyword: 'parameters'"),
        ({"PROMPT": "a", "parameters": {"PROMPT": "b"}}, "input 'PROMPT' already exists in request"),
        ({"PROMPT": "a", "COUNT": 1, "id": 7}, "'id' is int"),
    ],
)
async def test_what_is_malformed_is_400(house: House, body: object, message: str) -> None:
    house.serve(once)
    for action in ("generate", "generate_stream"):
        answer = await house.ask(action, body)
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]


async def test_inputs_may_stand_among_the_parameters(house: House) -> None:
    model = house.serve(once)
    await house.ask("generate", {"PROMPT": ["a"], "parameters": {"COUNT": [3], "top_k": 1}})
    (request,) = model.asked
    assert {wire.name for wire in request.inputs} == {"PROMPT", "COUNT"}
    assert request.parameters == {"top_k": 1}
