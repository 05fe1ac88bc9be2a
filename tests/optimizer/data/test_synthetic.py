import numpy as np

from enginehouse.dtype import DTYPES
from enginehouse.tensor import TensorSpec
from optimizer.data.synthetic import synthetic_feeds


def test_feeds_fit_every_dtype_and_are_seeded() -> None:
    inputs = [TensorSpec(name, dtype, (-1, 3)) for name, dtype in DTYPES.items()]
    feeds = synthetic_feeds(inputs, 4, batch_axis_open=True, seed=1)
    assert {name: array.dtype for name, array in feeds.items()} == {name: row.numpy for name, row in DTYPES.items()}
    assert all(array.shape == (4, 3) for array in feeds.values())
    again = synthetic_feeds(inputs, 4, batch_axis_open=True, seed=1)
    assert all(np.array_equal(feeds[name], again[name]) for name in feeds)


def test_open_inner_dimensions_get_a_plausible_size() -> None:
    image = TensorSpec("image", DTYPES["FP32"], (-1, 3, -1, -1))
    words = TensorSpec("words", DTYPES["INT64"], (-1, -1))
    feeds = synthetic_feeds([image, words], 2, batch_axis_open=True, seed=0)
    assert (feeds["image"].shape, feeds["words"].shape) == ((2, 3, 64, 64), (2, 16))
    assert set(np.unique(feeds["words"])) <= {0, 1}


def test_a_model_without_batch_axis_gets_its_own_shape() -> None:
    feeds = synthetic_feeds([TensorSpec("x", DTYPES["FP32"], (5,))], 8, batch_axis_open=False, seed=0)
    assert feeds["x"].shape == (5,)
