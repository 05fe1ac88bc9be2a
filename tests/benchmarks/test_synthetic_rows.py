from pathlib import Path

import numpy as np

from benchmarks.synthetic_rows import ROWS, smooth_images, token_rows, write_splits


def test_images_are_smooth_and_no_two_are_alike() -> None:
    images = smooth_images(6, 64, seed=0)
    assert (images.dtype, images.shape) == (np.dtype(np.float32), (6, 3, 64, 64))
    left, right = images[..., :-1].ravel(), images[..., 1:].ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.9
    assert np.abs(np.corrcoef(images.reshape(6, -1)) - np.eye(6)).max() < 0.9
    assert 0.3 < images.std() < 3


def test_tokens_are_frequent_or_rare_as_words_are() -> None:
    tokens = token_rows(200, 64, 30522, seed=0)
    assert (tokens.dtype, tokens.shape) == (np.dtype(np.int64), (200, 64))
    assert 0 <= tokens.min() <= tokens.max() < 30522
    counts = np.bincount(tokens.ravel(), minlength=30522)
    assert counts[0] > 0.05 * tokens.size
    assert (counts == 1).sum() > 500


def test_splits_share_no_row_and_the_same_seed_gives_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_splits(tmp_path / f"{name}.npz", "tokens", lambda rows, seed: token_rows(rows, 16, 1000, seed))
    with np.load(tmp_path / "a.npz") as first, np.load(tmp_path / "b.npz") as second:
        assert {name: len(first[name]) for name in first} == {f"{split}/tokens": rows for split, rows in ROWS.items()}
        assert all(np.array_equal(first[name], second[name]) for name in first)
        rows = [row.tobytes() for name in first for row in first[name]]
    assert len(set(rows)) == len(rows)
