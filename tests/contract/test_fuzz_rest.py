"""Whatever arrives over HTTP: refused with a reason in JSON, never a crash, never a connection that is stuck."""

import http.client
import json
from contextlib import suppress
from typing import Any

import numpy as np
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok

from tests.conftest import RunningService

# What a client can be told; 501 and 503 are documented (docs/protocol.md), any other 5xx is a fault of ours.
DOCUMENTED = {200, 400, 403, 404, 405, 406, 408, 411, 413, 415, 422, 429, 431, 501, 503}
PATIENT = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

HEADER = json.dumps(
    {
        "id": "7",
        "inputs": [{"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}],
        "parameters": {"priority": 1, "timeout": 5_000_000},
    }
).encode()
BODY = HEADER + np.ones((1, 3), np.float32).tobytes()
PATHS = ["/v2/models/identity_fp32/infer", "/v2/models/identity_fp32/versions/1/infer", "/v2/repository/index",
         "/v2/models/identity_fp32/generate", "/v2/repository/models/nobody/load", "/v2/logging", "/v2/trace/setting",
         "/v2/systemsharedmemory/region/r/register"]  # fmt: skip


def test_every_operation_of_the_schema_survives_what_fits_it_and_what_does_not(service: RunningService) -> None:
    """Drawn from the OpenAPI document that the server itself gives, in the library's own modes: valid and not."""
    schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 20
    for operation in operations:
        survives(operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE))
        # What takes nothing cannot be asked wrongly.
        with suppress(Unsatisfiable):
            survives(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))


def survives(cases: st.SearchStrategy[Any]) -> None:
    @settings(PATIENT, max_examples=10, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def call(case: schemathesis.Case[Any]) -> None:
        if "/repository/models/" in case.path:
            # The models of the other tests stay.
            case.path_parameters = {name: f"nobody-{value}" for name, value in case.path_parameters.items()}
        answer = case.call(timeout=20)
        check(answer.status_code, answer.content, (answer.headers.get("content-type") or [""])[0])

    call()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The valid body with bytes changed, cut out, doubled or put in."""
    body = bytearray(BODY)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(body) - 1)))
        match draw(st.sampled_from(("change", "cut", "double", "insert"))):
            case "change" if body:
                body[place] = draw(st.integers(0, 255))
            case "cut":
                del body[place : place + draw(st.integers(1, 40))]
            case "double":
                body[place:place] = body[place : place + 20]
            case _:
                body[place:place] = draw(st.binary(max_size=8))
    return bytes(body)


@PATIENT
@given(
    body=st.one_of(mutated(), st.binary(max_size=200)),
    path=st.sampled_from(PATHS),
    length=st.none() | st.just(str(len(HEADER))) | st.integers(-1, 300).map(str) | st.text("0159-x", max_size=6),
    encoding=st.sampled_from((None, None, None, "gzip", "deflate", "br", "identity")),
)  # fmt: skip
def test_a_body_of_any_bytes_is_answered_and_the_connection_lives(
    service: RunningService, body: bytes, path: str, length: str | None, encoding: str | None
) -> None:
    headers = {"Inference-Header-Content-Length": length} if length is not None else {}
    headers |= {"Content-Encoding": encoding} if encoding else {}
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=20)
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        check(answer.status, answer.read(), answer.getheader("content-type", ""))
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


WORDS = ("inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "id", "binary_data_size",
         "classification", "shared_memory_region", "sequence_id", "timeout", "priority", "config")  # fmt: skip
KEYS = st.sampled_from(WORDS) | st.text(max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@PATIENT
@given(document=JSON, path=st.sampled_from(PATHS), field=st.sampled_from(("", *WORDS)))
def test_json_of_any_form_is_answered(service: RunningService, document: Any, path: str, field: str) -> None:
    good = json.loads(HEADER)
    good["inputs"][0] = {"name": "INPUT0", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    if field in good:
        good[field] = document
    elif field:
        good["inputs"][0][field] = document
    body = json.dumps(good if field else document).encode()
    connection = http.client.HTTPConnection("127.0.0.1", service.http_port, timeout=20)
    try:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        check(answer.status, answer.read(), answer.getheader("content-type", ""))
    finally:
        connection.close()


def check(status: int, body: bytes, content_type: str) -> None:
    assert status in DOCUMENTED, (status, body[:300])
    if status != 200 and content_type:
        assert content_type == "application/json"
        assert json.loads(body)["error"], body
