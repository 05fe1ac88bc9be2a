from collections import Counter

import numpy as np

from optimizer.data.splits import Splitter


def test_every_label_is_split_in_the_same_shares() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [400, 40, 8]))
    splits = Splitter(1).assign(labels, len(labels))
    for label, rows in ((0, 400), (1, 40), (2, 8)):
        counts = Counter(splits[labels == label].tolist())
        assert counts == {"calibration": rows // 4, "validation": rows // 2, "test": rows // 4}


def test_the_split_does_not_depend_on_how_rows_are_chunked() -> None:
    labels = np.random.default_rng(0).integers(0, 5, 100)
    whole = Splitter(3).assign(labels, 100)
    splitter = Splitter(3)
    pieces = [splitter.assign(piece, len(piece)) for piece in np.array_split(labels, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_the_seed_decides() -> None:
    first, again, other = (Splitter(seed).assign(None, 64).tolist() for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_real_valued_labels_are_one_stratum() -> None:
    splits = Splitter(0).assign(np.linspace(0, 1, 40), 40)
    assert Counter(splits.tolist()) == {"calibration": 10, "validation": 20, "test": 10}
