"""What the head of a request says: headers that are forwarded, and until when an answer is of use."""

import asyncio
from typing import Any

import pytest

from service.request import InferRequest, Settle
from tests.service.http.conftest import House, text_response

BODY: dict[str, Any] = {
    "inputs": [
        {"name": "PROMPT", "datatype": "BYTES", "shape": [1], "data": ["a"]},
        {"name": "COUNT", "datatype": "INT32", "shape": [1], "data": [1]},
    ]
}
FLAT = {"PROMPT": "a", "COUNT": 1}


def once(_request: InferRequest, settle: Settle) -> None:
    settle(text_response("A"))


@pytest.mark.parametrize(("action", "body"), [("infer", BODY), ("generate", FLAT), ("generate_stream", FLAT)])
async def test_headers_in_whose_name_the_pattern_is_found_become_parameters(
    house: House, action: str, body: object
) -> None:
    model = house.serve(once)
    await house.ask(action, body, X_Trace_Id="abc", my_Tenant="t1", Other="no", X_Tra="no")
    (request,) = model.asked
    assert request.parameters == {"X-Trace-Id": "abc", "my-Tenant": "t1"}


async def test_the_body_outweighs_a_header(house: House) -> None:
    model = house.serve(once)
    await house.ask("infer", {**BODY, "parameters": {"tenant": "body"}}, tenant="head")
    assert model.asked[0].parameters == {"tenant": "body"}


@pytest.mark.parametrize("text", ["250", "250.5", "000250"])
async def test_the_timeout_header_is_a_deadline_from_when_the_body_was_whole(house: House, text: str) -> None:
    model = house.serve(once)
    await house.ask("infer", BODY, X_Request_Timeout_Ms=text)
    (request,) = model.asked
    assert request.deadline == pytest.approx(request.received_at + float(text) / 1000)
    assert request.decoded_at >= request.received_at


async def test_without_the_header_there_is_no_deadline(house: House) -> None:
    model = house.serve(once)
    await house.ask("infer", BODY)
    assert model.asked[0].deadline is None


@pytest.mark.parametrize("text", ["0", "-1", "1e3", "soon", "nan", "1,5", "", "9" * 40, "0.0", "٣"])
async def test_a_timeout_that_is_none_is_refused(house: House, text: str) -> None:
    model = house.serve(once)
    answer = await house.client.post(
        "/v2/models/talker/infer", json=BODY, headers={b"X-Request-Timeout-Ms": text.encode()}
    )
    assert answer.status_code == 400
    assert "a number of milliseconds above 0 is expected" in answer.json()["error"]
    assert not model.asked


async def test_a_caller_of_infer_that_leaves_takes_its_request_along(house: House) -> None:
    asked = asyncio.Event()
    model = house.serve(lambda *_: asked.set())
    call = asyncio.create_task(house.ask("infer", BODY))
    await asyncio.wait_for(asked.wait(), 30)
    call.cancel()
    await asyncio.wait_for(model.left.wait(), 30)
