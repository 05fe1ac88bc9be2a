"""What a model does not take is refused before it is queued, with a message that helps."""

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from service.admission import Admission
from service.request import InferRequest, WireTensor
from service.scheduling.rows import Layout
from tests.service.conftest import tensor

SPECS = (
    TensorSpec("x", DTYPES["FP32"], (-1, 2)),
    TensorSpec("t", DTYPES["BYTES"], (-1, -1)),
)
OUTPUTS = (TensorSpec("y", DTYPES["FP32"], (-1,)), TensorSpec("z", DTYPES["FP32"], (-1,)))
ADMISSION = Admission("m", Layout(SPECS, OUTPUTS, {}, True), 4)

X = tensor(np.zeros((2, 2), np.float32))
T = tensor(np.array([["a"], ["ä"]], dtype=object), "t", "BYTES")


def request(*inputs: WireTensor, outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest("m", "", inputs, outputs)


def wire(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> WireTensor:
    return WireTensor(name, DTYPES[dtype], shape, data)


def test_inputs_are_put_in_the_models_order_and_rows_are_counted() -> None:
    asked = request(T, X)
    rows, key = ADMISSION.check(asked)
    assert rows == 2
    assert asked.inputs == (X, T)
    assert key == ADMISSION.check(request(X, T))[1]


def test_only_requests_of_one_shape_share_a_key() -> None:
    wide = tensor(np.array([["a", "b"]] * 2, dtype=object), "t", "BYTES")
    one_row = tensor(np.array([["a"]], dtype=object), "t", "BYTES")
    key = ADMISSION.check(request(X, T))[1]
    assert ADMISSION.check(request(X, wide))[1] != key
    assert ADMISSION.check(request(tensor(np.zeros((1, 2), np.float32)), one_row)) == (1, key)


def test_bytes_that_are_no_text_are_for_models_that_take_them() -> None:
    layout = Layout(SPECS[1:], OUTPUTS, {}, True, takes_any_bytes=True)
    assert Admission("m", layout, 4).check(request(wire("t", "BYTES", (1, 1), b"\1\0\0\0\xff")))[0] == 1
    with pytest.raises(InvalidInput, match="1 BYTES elements given, 2 expected"):
        Admission("m", layout, 4).check(request(wire("t", "BYTES", (2, 1), b"\1\0\0\0\xff")))


def test_a_model_without_a_batch_takes_its_exact_shape_as_one_row() -> None:
    fixed = Admission("m", Layout((TensorSpec("x", DTYPES["FP32"], (2, 2)),), OUTPUTS, {}, False), 0)
    assert fixed.check(request(X)) == (1, None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (request(X, T, wire("u", "FP32", (2, 2), b"")), "unexpected inference input 'u' for model 'm'; it takes x, t"),
        (request(X), r"expected 2 inputs but got 1 inputs for model 'm'. Got \['x'\], missing \['t'\]"),
        (request(), r"expected 2 inputs but got 0 inputs"),
        (request(X, X), r"Got \['x', 'x'\], missing \['t'\]; each must be given once"),
        (request(X, T, T), "expected 2 inputs but got 3"),
        (request(wire("x", "FP64", (2, 2), bytes(32)), T), "'x' data-type is 'FP64', but model 'm' expects 'FP32'"),
        (
            request(wire("x", "FP32", (2, 3), bytes(24)), T),
            r"unexpected shape for input 'x' .* \[-1, 2\], got \[2, 3\]",
        ),
        (request(wire("x", "FP32", (2,), bytes(8)), T), r"got \[2\]"),
        (request(wire("x", "FP32", (2, 2), bytes(15)), T), r"expected 16 bytes for \[2, 2\], got 15"),
        (request(wire("x", "FP32", (2**62, 2), bytes(16)), T), "expected 36893488147419103232 bytes"),
        (request(X, wire("t", "BYTES", (2, 1), bytes(4))), "1 BYTES elements given, 2 expected"),
        (request(X, wire("t", "BYTES", (2, 1), bytes(3))), "ends inside the length of element 0"),
        (request(X, wire("t", "BYTES", (2, 2**62), b"")), "0 BYTES elements given"),
        (request(X, wire("t", "BYTES", (0, 2**62), b"")), "larger than an array"),
        (request(X, wire("t", "BYTES", (1, 1), b"\1\0\0\0\xff")), "element of input 't' for model 'm' is not UTF-8"),
        (request(X, T, outputs=("nobody",)), "unexpected inference output 'nobody' for model 'm'; it has y, z"),
        (request(X, T, outputs=("y", "z", "y")), "an output of model 'm' is requested more than once"),
        (request(X, tensor(np.array([["a"]], dtype=object), "t", "BYTES")), "'t' has batch size 1, input 'x' has 2"),
        (
            request(wire("x", "FP32", (5, 2), bytes(40)), tensor(np.array([["a"]] * 5, dtype=object), "t", "BYTES")),
            "batch-size is 5, must be 1 to 4 for 'm'",
        ),
        (
            request(wire("x", "FP32", (0, 2), b""), wire("t", "BYTES", (0, 1), b"")),
            "batch-size is 0, must be 1 to 4",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_told_why(asked: InferRequest, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        ADMISSION.check(asked)


def test_the_only_input_of_a_model_is_checked_like_any_other() -> None:
    single = Admission("m", Layout(SPECS[:1], OUTPUTS, {}, True), 4)
    assert single.check(request(X))[0] == 2
    for asked in (request(T), request(X, X), request()):
        with pytest.raises(InvalidInput):
            single.check(asked)


def test_an_input_may_be_left_out_where_the_model_says_so_and_only_equals_share_a_batch() -> None:
    layout = Layout(
        (SPECS[0], TensorSpec("z", SPECS[0].dtype, SPECS[0].shape)), OUTPUTS, {}, True, optional=frozenset("xz")
    )
    admission = Admission("m", layout, 4)
    other = tensor(np.zeros((2, 2), np.float32), "z", "FP32")
    alone, also_alone, both = request(X), request(other), request(other, X)
    keys = [admission.check(asked)[1] for asked in (alone, also_alone, both)]
    assert len(set(keys)) == 3
    assert admission.check(request(X)) == (2, keys[0])
    assert [given.name for given in both.inputs] == ["x", "z"]
    for asked in (request(), request(X, X), request(T)):
        with pytest.raises(InvalidInput):
            admission.check(asked)
