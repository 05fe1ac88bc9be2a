"""What describes a batch of unequal requests is computed from their shapes, and outputs can be cut by them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import EngineFailed
from enginehouse.proto.model_config_pb2 import BatchInput
from enginehouse.ragged_config import Derived
from enginehouse.tensor import Tensors, TensorSpec
from service.request import InferRequest
from service.scheduling.ragged import BatchInputs
from tests.service.conftest import Bench, MakeBench, make_bench, tensor

FLAT = TensorSpec("x", DTYPES["FP32"], (-1,))
ENDS = TensorSpec("ends", DTYPES["INT32"], (-1,))
SUMS = TensorSpec("sums", DTYPES["FP32"], (-1, 1))
TWICE = TensorSpec("twice", DTYPES["FP32"], (-1,))
TEXT = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true }
output { name: "sums" data_type: TYPE_FP32 dims: 1 }
output { name: "twice" data_type: TYPE_FP32 dims: -1 }
batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_INT32 source_input: "x" }
batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "twice" source_input: "x" }
dynamic_batching { }
"""


def request(*shape: int, value: float = 1, outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest("m", "", (tensor(np.full(shape, value, np.float32)),), outputs)


def derived(kind: "BatchInput.Kind", *requests: InferRequest, dtype: str = "INT32") -> Array:
    feeds = BatchInputs([Derived(kind, ("one", "two"), DTYPES[dtype], "x")])(requests)
    assert feeds["one"].dtype == DTYPES[dtype].numpy
    assert feeds["one"] is feeds["two"]
    return feeds["one"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (BatchInput.BATCH_ELEMENT_COUNT, [3, 4, 10]),
        (BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT, [3, 7, 17]),
        (BatchInput.BATCH_ACCUMULATED_ELEMENT_COUNT_WITH_ZERO, [0, 3, 7, 17]),
        (BatchInput.BATCH_MAX_ELEMENT_COUNT_AS_SHAPE, [0] * 10),
        (BatchInput.BATCH_ITEM_SHAPE, [[3], [4], [5], [5]]),
        (BatchInput.BATCH_ITEM_SHAPE_FLATTEN, [3, 4, 5, 5]),
    ],
)
@pytest.mark.parametrize("dtype", ["INT32", "FP32"])
def test_each_kind_tells_the_shapes_of_a_batch(kind: "BatchInput.Kind", expected: object, dtype: str) -> None:
    """Three requests of one, one and two rows."""
    assert derived(kind, request(1, 3), request(1, 4), request(2, 5), dtype=dtype).tolist() == expected


def test_item_shapes_have_one_column_for_each_dimension() -> None:
    two = [request(1, 2, 3), request(1, 4, 1)]
    assert derived(BatchInput.BATCH_ITEM_SHAPE, *two).tolist() == [[2, 3], [4, 1]]
    assert derived(BatchInput.BATCH_ITEM_SHAPE_FLATTEN, *two).tolist() == [2, 3, 4, 1]


def add_up(feeds: Tensors) -> Tensors:
    """One sum for each request, which only the ends can tell apart."""
    parts = np.split(feeds["x"], feeds["ends"][:-1])
    return {
        "sums": np.array([[part.sum()] for part in parts], np.float32),
        "twice": 2 * feeds["x"],
    }


@pytest.fixture
def sums(bench: MakeBench) -> Bench:
    return bench(TEXT, add_up, (FLAT, ENDS), (SUMS, TWICE))


def arrays(bench: Bench, key: str) -> list[list[list[float]]]:
    (answer,) = bench.answers.of[key]
    return [
        np.frombuffer(output.data, np.float32).reshape(output.shape).tolist()
        for output in answer.outputs  # type: ignore[union-attr]
    ]


def test_requests_of_unequal_lengths_run_together_flat(sums: Bench) -> None:
    for key, length in [("a", 3), ("b", 1), ("c", 4)]:
        sums.ask(key, request(1, length, value=length))
    sums.clock.run_ready()
    (feeds,) = sums.engines[0].runs
    assert feeds["x"].tolist() == [3, 3, 3, 1, 4, 4, 4, 4]
    assert feeds["ends"].tolist() == [3, 4, 8]
    assert arrays(sums, "a") == [[[9]], [[6, 6, 6]]]
    assert arrays(sums, "b") == [[[1]], [[2]]]
    assert arrays(sums, "c") == [[[16]], [[8, 8, 8, 8]]]


def test_a_single_request_lies_flat_too(sums: Bench) -> None:
    sums.ask("a", request(1, 2, outputs=("twice",)))
    sums.clock.run_ready()
    assert sums.engines[0].runs[0]["x"].shape == (2,)
    assert arrays(sums, "a") == [[[2, 2]]]


def test_an_output_that_does_not_add_up_is_the_engines_fault(bench: MakeBench) -> None:
    one = bench(TEXT, lambda feeds: {**add_up(feeds), "twice": feeds["x"][1:]}, (FLAT, ENDS), (SUMS, TWICE))
    one.ask("a", request(1, 3))
    one.clock.run_ready()
    assert isinstance(one.answers.error("a"), EngineFailed)
    assert "output 'twice' has 2 elements; 3 expected for the shapes of input 'x'" in str(one.answers.error("a"))


@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=20))
def test_a_batch_equals_its_requests_one_by_one(lengths: Sequence[int]) -> None:
    one = make_bench(TEXT, add_up, (FLAT, ENDS), (SUMS, TWICE))
    for number, length in enumerate(lengths):
        one.ask(str(number), request(1, length, value=number + 1))
    one.clock.run_ready()
    for number, length in enumerate(lengths):
        value = number + 1
        assert arrays(one, str(number)) == [[[length * value]], [[2.0 * value] * length]]
    one.model.close()
