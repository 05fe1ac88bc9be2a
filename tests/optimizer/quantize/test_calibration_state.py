from pathlib import Path

import numpy as np

from enginehouse.dtype import Array
from optimizer.quantize.calibration_state import Progress, chained_digest, load_progress, rows_of, save_progress


def feed(value: float, rows: int = 2) -> dict[str, Array]:
    return {"x": np.full((rows, 3), value, np.float32)}


def progress() -> Progress:
    made = Progress("model", np.array([-1.0, 0.0]), np.array([1.0, np.inf]), np.arange(6).reshape(2, 3))
    made.batches, made.rows, made.grown_at, made.digest = 3, 24, 8, "abc"
    made.is_counting, made.rows_ranged, made.has_converged = True, 96, True
    return made


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_progress(progress(), tmp_path / "state")
    loaded = load_progress(tmp_path / "state", "model")
    assert loaded is not None
    for name in Progress.__slots__:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(progress(), name))
        assert type(getattr(loaded, name)) is type(getattr(progress(), name))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_state_of_another_model_is_none(tmp_path: Path) -> None:
    save_progress(progress(), tmp_path / "state")
    assert load_progress(tmp_path / "state", "other") is None


def test_no_state_and_a_damaged_state_are_none(tmp_path: Path) -> None:
    assert load_progress(tmp_path / "state", "model") is None
    save_progress(progress(), tmp_path / "state")
    whole = (tmp_path / "state").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "state").write_bytes(whole[:length])
        assert load_progress(tmp_path / "state", "model") is None
    np.savez(tmp_path / "strange.npz", model="model")
    assert load_progress(tmp_path / "strange.npz", "model") is None


def test_a_digest_tells_values_order_names_and_types_apart() -> None:
    feeds = [feed(1), feed(2), {"y": feed(1)["x"]}, {"x": feed(1)["x"].astype(np.float64)}, feed(1, rows=1)]
    feeds += [{"x": np.array(["a"], dtype=object)}, {"x": np.array(["b"], dtype=object)}]
    assert len({chained_digest("", one) for one in feeds}) == len(feeds)
    first, second = (
        chained_digest(chained_digest("", feed(1)), feed(2)),
        chained_digest(chained_digest("", feed(2)), feed(1)),
    )
    assert first != second


def test_rows_are_counted_by_the_first_input() -> None:
    assert rows_of(feed(1, rows=5), is_whole=False) == 5


def test_a_feed_without_an_axis_of_rows_is_one_row() -> None:
    assert rows_of(feed(1, rows=5), is_whole=True) == 1
    assert rows_of({"x": np.array(3.0)}, is_whole=True) == 1
