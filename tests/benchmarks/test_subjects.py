from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.subjects import NAMES, RANDOM, TRAINED, subject_named


@pytest.mark.parametrize("name", TRAINED)
def test_trained_subjects_lie_in_the_examples_with_labels(name: str, tmp_path: Path) -> None:
    subject = subject_named(name, tmp_path)
    assert subject.model.exists()
    with np.load(subject.data) as arrays:
        assert {"calibration/label", "validation/label", "test/label"} <= set(arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "bert"])
def test_random_subjects_are_written_with_rows_that_fit_their_input(name: str, tmp_path: Path) -> None:
    subject = subject_named(name, tmp_path)
    (value,) = onnx.load(subject.model).graph.input
    rank = len(value.type.tensor_type.shape.dim)
    with np.load(subject.data) as arrays:
        assert {array.rpartition("/")[2] for array in arrays} == {value.name}
        assert all(arrays[array].ndim == rank for array in arrays)
    assert subject.metric == "cosine"


def test_every_kind_of_network_is_measured() -> None:
    assert set(NAMES) == {"cnn", "mlp", "lstm", "transformer", "docstrings", "resnet50", "mobilenet_v2", "bert"}
    assert not set(TRAINED) & set(RANDOM)
