import pytest

from enginehouse.errors import InvalidInput
from service.ensembles.ensemble_tensors import Feed, agree, tensors_of
from tests.service.fake_steps import step_config


@pytest.mark.parametrize(
    ("dims", "wants_batch", "comes_batched", "shape", "fitted"),
    [
        ((3,), True, True, (2, 3), (2, 3)),
        ((3,), False, False, (3,), (3,)),
        ((3,), True, False, (3,), (1, 3)),
        ((3,), True, False, (5, 3), (5, 3)),
        ((3,), False, True, (1, 3), (3,)),
        ((3,), False, True, (2, 3), (2, 3)),
        ((-1, 3), False, True, (1, 3), (1, 3)),
        ((-1,), False, True, (), ()),
    ],
)
def test_a_single_row_gains_or_loses_its_batch_dimension(
    dims: tuple[int, ...], wants_batch: bool, comes_batched: bool, shape: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    assert Feed("x", "t", dims, wants_batch, comes_batched).fitted(shape) == fitted


@pytest.mark.parametrize(
    ("left", "right", "agrees"),
    [
        (("4", 0), ("4", 0), True),
        (("4", 0), ("-1", 0), True),
        (("4", 0), ("5", 0), False),
        (("4", 0), ("4, 4", 0), False),
        (("4", 8), ("4", 0), True),
        (("4", 8), ("-1, 4", 0), True),
        (("4", 8), ("7, 4", 0), True),
        (("4", 8), ("7, 5", 0), False),
    ],
)
def test_shapes_agree_where_they_may_be_the_same(left: tuple[str, int], right: tuple[str, int], agrees: bool) -> None:
    sent, received = (
        tensors_of(config, config.output)["y"]
        for config in (
            step_config(name, dims=dims, more=f"max_batch_size: {batch}")
            for name, (dims, batch) in (("left", left), ("right", right))
        )
    )
    if agrees:
        agree("e", "t", sent, received)
    else:
        with pytest.raises(InvalidInput, match=r"'t': inconsistent shape: .* model 'left' while .* model 'right'"):
            agree("e", "t", sent, received)


def test_types_must_be_the_same() -> None:
    left, right = step_config("left"), step_config("right", dtype="TYPE_FP32")
    sent, received = tensors_of(left, left.output)["y"], tensors_of(right, right.input)["x"]
    with pytest.raises(InvalidInput, match=r"inconsistent data type: TYPE_UINT8 .* 'left' while TYPE_FP32 .* 'right'"):
        agree("e", "t", sent, received)
