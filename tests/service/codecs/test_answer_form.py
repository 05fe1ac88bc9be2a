"""What a request asks of its answers, given to every answer of it, in whatever order they come."""

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, array_from_bytes
from enginehouse.errors import EngineFailed, Error, InvalidInput
from enginehouse.model_config import config_from_text
from service.codecs.answer_form import as_asked
from service.request import InferRequest, InferResponse, Timings, WireTensor

CONFIG = config_from_text(
    """
    max_batch_size: 4
    output [ { name: "scores" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "words" data_type: TYPE_STRING dims: [ 1 ] } ]
    """,
    "m",
    "test",
)
TIMINGS = Timings(0.001, 0.002, 0.0, 0.003, 0.0, 2)
LABELS = {"scores": ("a", "b", "c")}


def response(*values: float) -> InferResponse:
    data = np.array([values], np.float32).tobytes()
    return InferResponse("m", "1", "", (WireTensor("scores", DTYPES["FP32"], (1, 3), data),), TIMINGS, {"mine": 1})


def text_of(answer: InferResponse | Error) -> list[str]:
    assert isinstance(answer, InferResponse)
    (wire,) = answer.outputs
    return [item.decode() for item in array_from_bytes(wire.data, wire.dtype, wire.shape).ravel()]


def test_a_request_that_asks_for_nothing_keeps_its_own_settle() -> None:
    def settle(_: InferResponse | Error) -> None: ...

    request = InferRequest("m", "", (), parameters={"enginehouse_timings": "true"})
    assert as_asked(request, settle, CONFIG, {}) is settle


def test_every_answer_is_classified_also_those_before_the_last() -> None:
    emitted: list[InferResponse] = []
    settled: list[InferResponse | Error] = []
    request = InferRequest("m", "", (), classifications={"scores": 2}, emit=emitted.append)
    settle = as_asked(request, settled.append, CONFIG, LABELS)
    assert request.emit is not None
    request.emit(response(1, 2, 3))
    settle(response(6, 5, 4))
    assert text_of(emitted[0]) == ["3.000000:2:c", "2.000000:1:b"]
    assert text_of(settled[0]) == ["6.000000:0:a", "5.000000:1:b"]


def test_timings_stand_beside_what_the_model_says() -> None:
    settled: list[InferResponse | Error] = []
    request = InferRequest("m", "", (), parameters={"enginehouse_timings": True})
    as_asked(request, settled.append, CONFIG, {})(response(1, 2, 3))
    (answer,) = settled
    assert isinstance(answer, InferResponse)
    expected = {"mine": 1, "decode_us": 1000, "queue_us": 2000, "compute_us": 3000, "batch_rows": 2}
    assert answer.parameters == expected


def test_an_error_passes_as_it_is() -> None:
    settled: list[InferResponse | Error] = []
    problem = EngineFailed("broke")
    request = InferRequest("m", "", (), classifications={"scores": 2})
    as_asked(request, settled.append, CONFIG, {})(problem)
    assert settled == [problem]


def test_classes_of_text_are_refused_before_anything_is_computed() -> None:
    request = InferRequest("m", "", (), classifications={"words": 1})
    with pytest.raises(InvalidInput, match="unsupported type 'BYTES'"):
        as_asked(request, lambda _: None, CONFIG, {})
