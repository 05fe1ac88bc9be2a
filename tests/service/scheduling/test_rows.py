"""Rows are joined once and cut once, and every answer is what its request would have got alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, Array, array_from_bytes, bytes_from_array
from enginehouse.errors import EngineFailed
from enginehouse.tensor import TensorSpec
from service.request import InferRequest, WireTensor
from service.scheduling.rows import Layout, join, split
from tests.service.conftest import tensor

TEXT, FLOAT, BOOL = DTYPES["BYTES"], DTYPES["FP32"], DTYPES["BOOL"]


def request(*tensors: WireTensor, outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest("m", "", tensors, outputs)


def layout(*specs: TensorSpec, **fields: Any) -> Layout:
    return Layout(specs, specs, fields.pop("engine_shapes", {}), fields.pop("has_batch_axis", True), **fields)


def array_of(wire: WireTensor) -> Array:
    return array_from_bytes(wire.data, wire.dtype, wire.shape)


PAIR = layout(TensorSpec("x", FLOAT, (-1, 2)), TensorSpec("t", TEXT, (-1,)))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_joined_rows_come_back_to_their_own_requests(counts: list[int]) -> None:
    numbers = iter(range(10_000))
    requests = []
    for count in counts:
        values = np.array([[next(numbers), next(numbers)] for _ in range(count)], np.float32).reshape(count, 2)
        words = np.array([str(next(numbers)).encode() for _ in range(count)], dtype=object)
        requests.append(request(tensor(values), tensor(words, "t", "BYTES")))
    feeds = join(requests, PAIR)
    assert feeds["x"].shape == (sum(counts), 2)
    assert feeds["t"].shape == (sum(counts),)
    for given_to, answer in zip(requests, split(feeds, requests, counts, PAIR), strict=True):
        assert [(wire.name, wire.shape, bytes(wire.data)) for wire in answer] == [
            (wire.name, wire.shape, bytes(wire.data)) for wire in given_to.inputs
        ]


def test_a_single_request_is_viewed_in_place() -> None:
    data = bytearray(16)
    feeds = join([request(WireTensor("x", FLOAT, (2, 2), memoryview(data)))], layout(PAIR.inputs[0]))
    data[:4] = np.float32(7).tobytes()
    assert feeds["x"][0, 0] == 7


def test_slices_of_a_batch_share_its_memory() -> None:
    requests = [request(tensor(np.zeros((1, 2), np.float32)))] * 2
    (first,), (second,) = split({"x": np.zeros((2, 2), np.float32)}, requests, [1, 1], layout(PAIR.inputs[0]))
    assert isinstance(first.data, memoryview)
    assert isinstance(second.data, memoryview)
    assert first.data.obj is second.data.obj


def test_only_wanted_outputs_are_answered_in_the_wanted_order() -> None:
    outputs = {"x": np.ones((2, 2), np.float32), "t": np.array(["a", "b"], dtype=object)}
    requests = [request(outputs=("t",)), request(outputs=("t", "x"))]
    first, second = split(outputs, requests, [1, 1], PAIR)
    assert [wire.name for wire in first] == ["t"]
    assert [wire.name for wire in second] == ["t", "x"]
    (only,) = split({"x": outputs["x"][:1]}, [request(outputs=("x",))], [1], PAIR)
    assert [wire.name for wire in only] == ["x"]


def test_memory_of_any_order_is_cut_in_row_major_order() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2))
    answers = split({"x": array}, [request()] * 3, [1, 1, 1], layout(PAIR.inputs[0]))
    assert [array_of(wire).tolist() for (wire,) in answers] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_rows_without_elements_are_rows_all_the_same() -> None:
    spec = layout(TensorSpec("x", FLOAT, (-1, -1)))
    requests = [request(tensor(np.zeros((count, 0), np.float32))) for count in (1, 2)]
    feeds = join(requests, spec)
    assert feeds["x"].shape == (3, 0)
    assert [wire.shape for (wire,) in split(feeds, requests, [1, 2], spec)] == [(1, 0), (2, 0)]


@pytest.mark.parametrize(
    ("shape", "client", "engine", "has_batch", "expected"),
    [
        ((3, 4), (-1, 4), (-1, 2, 2), True, (3, 2, 2)),
        ((3, 1), (-1, 1), (-1,), True, (3,)),
        ((3, 2, 3), (-1, 2, 3), (-1, 3, 2), True, (3, 3, 2)),
        ((2, 5, 7), (-1, -1, -1), (-1, -1, 1, -1), True, (2, 5, 1, 7)),
        ((2, 0, 7), (-1, -1, 7), (-1, 7, -1), True, (2, 7, 0)),
        ((1,), (1,), (), False, ()),
        ((6,), (-1,), (1, -1), False, (1, 6)),
    ],
)
def test_a_reshape_is_made_on_the_way_in_and_undone_on_the_way_out(
    shape: tuple[int, ...],
    client: tuple[int, ...],
    engine: tuple[int, ...],
    has_batch: bool,
    expected: tuple[int, ...],
) -> None:
    spec = TensorSpec("x", FLOAT, client)
    both = Layout((spec,), (spec,), {"x": engine}, has_batch, {"x": engine})
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    asked = request(tensor(array))
    feeds = join([asked], both)
    assert feeds["x"].shape == expected
    ((answer,),) = split(feeds, [asked], [shape[0]], both)
    assert answer.shape == shape
    assert array_of(answer).tolist() == array.tolist()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, r"the engine gave no output 'x'; it gave \[\]"),
        ({"x": np.zeros((3, 2), np.float32)}, r"'x' has shape \[3, 2\] for 2 rows; its first dimension must be 2"),
        ({"x": np.zeros((), np.float32)}, r"'x' has shape \[\] for 2 rows"),
        ({"x": np.zeros((2,), np.float32)}, r"'x' has shape \[2\]; \[-1, 2\] expected"),
        ({"x": np.zeros((2, 2))}, "'x' is float64; FP32 expected"),
    ],
)
def test_an_engine_that_breaks_its_word_fails_by_name(outputs: dict[str, Array], message: str) -> None:
    requests = [request(tensor(np.zeros((1, 2), np.float32)))] * 2
    with pytest.raises(EngineFailed, match=message):
        split(outputs, requests, [1, 1], layout(PAIR.inputs[0]))


def test_a_reshaped_output_of_another_size_fails_by_name() -> None:
    spec = TensorSpec("x", FLOAT, (-1, 4))
    reshaped = Layout((spec,), (spec,), {}, True, {"x": (-1, 2, 2)})
    with pytest.raises(EngineFailed, match=r"'x' has shape \[1, 3, 3\]; \[-1, 2, 2\] expected"):
        split({"x": np.zeros((1, 3, 3), np.float32)}, [request()], [1], reshaped)


def test_without_a_batch_axis_the_answer_is_the_whole_output() -> None:
    spec = TensorSpec("x", BOOL, (2,))
    whole = np.array([True, False])
    ((answer,),) = split({"x": whole}, [request()], [1], layout(spec, has_batch_axis=False))
    assert (answer.shape, bytes(answer.data)) == ((2,), bytes_from_array(whole, BOOL))
