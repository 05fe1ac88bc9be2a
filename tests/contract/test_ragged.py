"""Ragged batching through a real server: sentences of any length share a batch without padding."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model

CONFIG = """
max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]
output [
  { name: "SUM" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "NEGATIVE" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "LENGTH" data_type: TYPE_INT32 dims: [ 1 ] }
]
batch_input [
  {
    kind: BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO
    target_name: "OFFSETS" data_type: TYPE_INT32 source_input: "INPUT"
  },
  { kind: BATCH_ITEM_SHAPE target_name: "SHAPES" data_type: TYPE_INT32 source_input: "INPUT" }
]
batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "NEGATIVE" source_input: "INPUT" } ]
dynamic_batching { max_queue_delay_microseconds: 300000 preferred_batch_size: [ 4 ] }
"""


def make_ragged_model() -> onnx.ModelProto:
    """Sums up each request: running totals, taken where the offsets say that a request begins and ends."""
    real, integer = TensorProto.FLOAT, TensorProto.INT32

    def constant(name: str, *values: int) -> TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    nodes = [
        helper.make_node("CumSum", ["INPUT", "axis"], ["totals"]),
        helper.make_node("Concat", ["nothing", "totals"], ["from_zero"], axis=0),
        helper.make_node("Gather", ["from_zero", "OFFSETS"], ["at"]),
        helper.make_node("Slice", ["at", "one", "end"], ["ends"]),
        helper.make_node("Slice", ["at", "zero", "last"], ["begins"]),
        helper.make_node("Sub", ["ends", "begins"], ["sums"]),
        helper.make_node("Unsqueeze", ["sums", "one"], ["SUM"]),
        helper.make_node("Neg", ["INPUT"], ["NEGATIVE"]),
        helper.make_node("Identity", ["SHAPES"], ["LENGTH"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ragged",
        [
            helper.make_tensor_value_info("INPUT", real, ["elements"]),
            helper.make_tensor_value_info("OFFSETS", integer, ["bounds"]),
            helper.make_tensor_value_info("SHAPES", integer, ["n", 1]),
        ],
        [
            helper.make_tensor_value_info("SUM", real, ["n", 1]),
            helper.make_tensor_value_info("NEGATIVE", real, ["elements"]),
            helper.make_tensor_value_info("LENGTH", integer, ["n", 1]),
        ],
        [
            numpy_helper.from_array(np.array(0, np.int64), "axis"),
            numpy_helper.from_array(np.array([0], np.float32), "nothing"),
            constant("zero", 0),
            constant("one", 1),
            constant("last", -1),
            constant("end", np.iinfo(np.int64).max),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def ragged_service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("ragged") / "models"
    save_model(repository, "ragged", make_ragged_model(), CONFIG)
    with start_service(repository) as running:
        yield running


def ask(module: Any, values: list[float]) -> Any:
    tensor = module.InferInput("INPUT", [1, len(values)], "FP32")
    tensor.set_data_from_numpy(np.array([values], np.float32))
    return tensor


SENTENCES = [[1.0, 2.0, 3.0], [10.0], [4.0, 5.0], [0.5, 0.5, 0.5, 0.5]]


def check(answer: Any, sentence: list[float]) -> None:
    assert answer.as_numpy("SUM").tolist() == [[sum(sentence)]]
    assert answer.as_numpy("NEGATIVE").tolist() == [[-value for value in sentence]]
    assert answer.as_numpy("LENGTH").tolist() == [[len(sentence)]]


def test_requests_of_unequal_lengths_share_one_batch(ragged_service: RunningService) -> None:
    with httpclient.InferenceServerClient(f"127.0.0.1:{ragged_service.http_port}", concurrency=4) as client:
        pending = [client.async_infer("ragged", [ask(httpclient, sentence)]) for sentence in SENTENCES]
        for one, sentence in zip(pending, SENTENCES, strict=True):
            check(one.get_result(), sentence)
        (statistics,) = client.get_inference_statistics("ragged")["model_stats"]
    assert [batch["batch_size"] for batch in statistics["batch_stats"]] == [4]
    assert (statistics["inference_count"], statistics["execution_count"]) == (4, 1)


def test_one_alone_is_a_batch_of_one(ragged_service: RunningService) -> None:
    with grpcclient.InferenceServerClient(f"127.0.0.1:{ragged_service.grpc_port}") as client:
        check(client.infer("ragged", [ask(grpcclient, [7.0, 8.0])]), [7.0, 8.0])


def test_clients_see_no_input_that_only_describes_the_batch(ragged_service: RunningService) -> None:
    with httpclient.InferenceServerClient(f"127.0.0.1:{ragged_service.http_port}") as client:
        metadata = client.get_model_metadata("ragged")
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["INPUT"]
