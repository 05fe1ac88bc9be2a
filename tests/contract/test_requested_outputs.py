"""What a request may ask of its outputs, the same through both transports: which, in which order, and as classes."""

import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import make_simple_model, save_model
from tests.contract.test_http_forms import post

LABELS = """
max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
"""


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("outputs")
    save_model(repository, "simple", make_simple_model())
    save_model(repository, "labelled", make_identity_model(), LABELS)
    (repository / "labelled" / "labels.txt").write_text("cat\ndog\n")
    save_model(repository, "words", make_identity_model(TensorProto.STRING, ("batch", 2)))
    with start_service(repository) as running:
        yield running


class Asker:
    """One client of one transport."""

    def __init__(self, library: ModuleType, service: RunningService) -> None:
        self._library = library
        port = service.http_port if library is triton_http else service.grpc_port
        self.client = library.InferenceServerClient(f"127.0.0.1:{port}")

    def ask(self, model: str, outputs: list[tuple[str, int]] | None, **arrays: Any) -> dict[str, Any]:
        """The outputs in the order of the answer, text as text.

        Args:
            outputs: the names of those that are wanted, each with a number of classes; None to name none.
        """
        inputs = []
        for name, array in arrays.items():
            datatype = {"O": "BYTES", "i": "INT32", "f": "FP32"}[array.dtype.kind]
            inputs.append(self._library.InferInput(name, list(array.shape), datatype))
            inputs[-1].set_data_from_numpy(array)
        wanted = None
        if outputs is not None:
            wanted = [self._library.InferRequestedOutput(name, class_count=count) for name, count in outputs]
        answer = self.client.infer(model, inputs, outputs=wanted)
        told = answer.get_response()
        names = [one["name"] for one in told["outputs"]] if isinstance(told, dict) else [o.name for o in told.outputs]
        return {name: as_text(answer.as_numpy(name)) for name in names}


def as_text(array: Any) -> Any:
    if array.dtype.kind != "O":
        return array.tolist()
    flat = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    return np.array(flat, dtype=object).reshape(array.shape).tolist()


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def asker(request: pytest.FixtureRequest, service: RunningService) -> Iterator[Asker]:
    made = Asker(request.param, service)
    yield made
    made.client.close()


ONES = np.ones((1, 16), np.int32)
SIMPLE = {"INPUT0": ONES * 3, "INPUT1": ONES}
SUM, DIFFERENCE = [[4] * 16], [[2] * 16]
SCORES = {"INPUT0": np.array([[0.25, 1, 0.5], [9, 8, 7]], np.float32)}
WORDS = {"INPUT0": np.array([["a", "ü"]], dtype=object)}


@pytest.mark.parametrize(
    ("model", "arrays", "outputs", "expected"),
    [
        ("simple", SIMPLE, None, [("OUTPUT0", SUM), ("OUTPUT1", DIFFERENCE)]),
        ("simple", SIMPLE, [], [("OUTPUT0", SUM), ("OUTPUT1", DIFFERENCE)]),
        ("simple", SIMPLE, [("OUTPUT1", 0)], [("OUTPUT1", DIFFERENCE)]),
        ("simple", SIMPLE, [("OUTPUT1", 0), ("OUTPUT0", 0)], [("OUTPUT1", DIFFERENCE), ("OUTPUT0", SUM)]),
        (
            "simple",
            SIMPLE,
            [("OUTPUT1", 2), ("OUTPUT0", 0)],
            [("OUTPUT1", [["2:0", "2:1"]]), ("OUTPUT0", SUM)],
        ),
        (
            "labelled",
            SCORES,
            [("OUTPUT0", 2)],
            [("OUTPUT0", [["1.000000:1:dog", "0.500000:2"], ["9.000000:0:cat", "8.000000:1:dog"]])],
        ),
        (
            "labelled",
            SCORES,
            [("OUTPUT0", 50)],
            [
                (
                    "OUTPUT0",
                    [
                        ["1.000000:1:dog", "0.500000:2", "0.250000:0:cat"],
                        ["9.000000:0:cat", "8.000000:1:dog", "7.000000:2"],
                    ],
                )
            ],
        ),
        ("words", WORDS, [("OUTPUT0", 0)], [("OUTPUT0", [["a", "ü"]])]),
    ],
    ids=["none", "empty", "one", "reversed", "classes and numbers", "few labels", "many classes", "text"],
)
def test_what_was_asked_for_comes_in_that_order(
    asker: Asker, model: str, arrays: Any, outputs: Any, expected: list[tuple[str, Any]]
) -> None:
    assert list(asker.ask(model, outputs, **arrays).items()) == expected


@pytest.mark.parametrize(
    ("model", "arrays", "outputs", "reason"),
    [
        ("simple", SIMPLE, [("OUTPUT9", 0)], "unexpected inference output 'OUTPUT9' for model 'simple'"),
        ("simple", SIMPLE, [("OUTPUT0", 0), ("OUTPUT0", 0)], "requested more than once"),
        ("simple", SIMPLE, [("OUTPUT0", 0), ("OUTPUT0", 3)], "requested more than once"),
        ("words", WORDS, [("OUTPUT0", 1)], "class result not available for output 'OUTPUT0' due to unsupported type"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(asker: Asker, model: str, arrays: Any, outputs: Any, reason: str) -> None:
    with pytest.raises(InferenceServerException, match=reason) as told:
        asker.ask(model, outputs, **arrays)
    assert told.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("parameters", "output", "reason"),
    [
        ({"binary_data_output": "yes"}, {}, "Unable to parse 'binary_data_output', got: 'yes'"),
        ({"binary_data_output": 1}, {}, "Unable to parse 'binary_data_output', got: 1"),
        ({}, {"binary_data": "false"}, "Unable to parse 'binary_data', got: 'false'"),
        ({}, {"classification": -1}, "a number of classes is expected"),
        ({}, {"classification": True}, "a number of classes is expected"),
    ],
)
def test_a_wish_of_another_kind_is_refused_and_not_guessed(
    service: RunningService, parameters: dict[str, Any], output: dict[str, Any], reason: str
) -> None:
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    body = {"inputs": [entry], "outputs": [{"name": "OUTPUT0", "parameters": output}], "parameters": parameters}
    answer, content = post(service, "/v2/models/labelled/infer", json.dumps(body).encode())
    assert answer.status == 400
    assert reason in json.loads(content)["error"]


def test_what_an_output_is_told_besides_means_nothing(service: RunningService) -> None:
    entry = {"name": "INPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    body = {
        "inputs": [{**entry, "parameters": {"mine": "x"}}],
        "outputs": [{"name": "OUTPUT0", "parameters": {"mine": 1.5, "binary_data": False}}],
        "parameters": {"binary_data_output": True, "mine": True},
    }
    _, content = post(service, "/v2/models/labelled/infer", json.dumps(body).encode())
    assert json.loads(content)["outputs"] == [
        {"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    ]
