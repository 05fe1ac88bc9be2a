"""An input that the graph has a value for may be left out of a request, and nobody's rows get another's value."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.http as http
from onnx import TensorProto, helper

from tests.conftest import StartService
from tests.contract.conftest import save_model

CONFIG = """max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 20000 }
input [ { name: "x" data_type: TYPE_FP32 dims: 2 }, { name: "bias" data_type: TYPE_FP32 dims: 2 optional: true } ]
output { name: "y" data_type: TYPE_FP32 dims: 2 }"""
SEEN_BIAS = 10.0


def make_optional_model() -> onnx.ModelProto:
    """`y = x + bias`, where the bias is a row of tens unless a request says otherwise."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "bias", "y")]
    value = helper.make_tensor("bias", TensorProto.FLOAT, [1, 2], [SEEN_BIAS, SEEN_BIAS])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "bias"], ["y"])], "optional", tensors[:2], tensors[2:], [value]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, start_service: StartService) -> Iterator[str]:
    repository: Path = tmp_path_factory.mktemp("optional")
    save_model(repository, "optional", make_optional_model(), CONFIG)
    save_model(repository, "bare", make_optional_model())
    needed = CONFIG.replace("dims: 2 }, {", "dims: 2 optional: true }, {")
    save_model(repository, "needed", make_optional_model(), needed)
    with start_service(repository) as service:
        yield f"127.0.0.1:{service.http_port}"


def ask(url: str, x: float, bias: float | None, model: str = "optional") -> float:
    with http.InferenceServerClient(url) as client:
        tensors = [given("x", x)] + ([] if bias is None else [given("bias", bias)])
        answer = client.infer(model, tensors).as_numpy("y")
    assert answer is not None
    assert answer.shape == (1, 2)
    return float(answer[0, 1])


def given(name: str, value: float) -> http.InferInput:
    tensor = http.InferInput(name, [1, 2], "FP32")
    tensor.set_data_from_numpy(np.full((1, 2), value, np.float32))
    return tensor


def test_requests_with_and_without_it_are_answered_each_with_its_own(url: str) -> None:
    biases = [None, 1.0, 2.0] * 16
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda pair: ask(url, *pair), enumerate(biases)))
    expected = [x + (SEEN_BIAS if bias is None else bias) for x, bias in enumerate(biases)]
    assert answers == expected
    with http.InferenceServerClient(url) as client:
        (row,) = client.get_inference_statistics("optional")["model_stats"]
    assert row["inference_count"] == len(biases)
    assert row["execution_count"] < len(biases), "rows that give the same inputs were joined"


def test_a_request_needs_one_input_at_least(url: str) -> None:
    with (
        http.InferenceServerClient(url) as client,
        pytest.raises(http.InferenceServerException, match=r"missing \['x'\]"),
    ):
        client.infer("optional", [given("bias", 1.0)])


def test_a_configuration_that_does_not_name_it_has_no_such_input(url: str) -> None:
    assert ask(url, 1.0, None, "bare") == 1.0 + SEEN_BIAS
    with pytest.raises(http.InferenceServerException, match="unexpected inference input 'bias'"):
        ask(url, 1.0, 1.0, "bare")


def test_what_the_engine_needs_cannot_be_optional(url: str) -> None:
    with http.InferenceServerClient(url) as client:
        rows = {row["name"]: row for row in client.get_model_repository_index()}
    assert "input 'x' is optional in the configuration, but the engine needs it" in rows["needed"]["reason"]
