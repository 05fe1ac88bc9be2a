"""Outputs as their highest classes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.dtype import DTYPES, array_from_bytes
from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.codecs.classification import check_classes, classify, read_labels
from service.request import WireTensor


def wire(values: object, dtype: str = "FP32") -> WireTensor:
    array = np.array(values, dtype=DTYPES[dtype].numpy)
    return WireTensor("scores", DTYPES[dtype], array.shape, array.tobytes())


def classes(tensor: WireTensor) -> list[object]:
    assert tensor.dtype is DTYPES["BYTES"]
    array = array_from_bytes(tensor.data, tensor.dtype, tensor.shape)
    return [[item.decode() for item in row] for row in array] if array.ndim == 2 else [item.decode() for item in array]


def test_each_row_of_a_batch_has_its_own_classes() -> None:
    found = classify(wire([[0.1, 0.7, 0.2], [3, 2, 1]]), 2, ("cat", "dog"), is_batched=True)
    assert found.shape == (2, 2)
    assert classes(found) == [["0.700000:1:dog", "0.200000:2"], ["3.000000:0:cat", "2.000000:1:dog"]]


def test_a_model_without_a_batch_axis_has_one_list_of_all_values() -> None:
    found = classify(wire([[1, 4], [3, 2]], "INT32"), 3, (), is_batched=False)
    assert (found.shape, classes(found)) == ((3,), ["4:1", "3:2", "2:3"])


def test_more_classes_than_there_are_values_gives_all_of_them() -> None:
    found = classify(wire([[1, 2]], "UINT8"), 10, (), is_batched=True)
    assert (found.shape, classes(found)) == ((1, 2), [["2:1", "1:0"]])


def test_rows_of_several_dimensions_are_taken_flat() -> None:
    found = classify(wire([[[1, 9], [5, 2]]], "INT64"), 2, (), is_batched=True)
    assert classes(found) == [["9:1", "5:2"]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=20), st.integers(1, 25))
def test_classes_are_sorted_and_the_first_of_equals_leads(values: list[int], count: int) -> None:
    expected = sorted(range(len(values)), key=lambda index: (-values[index], index))[:count]
    found = classify(wire(values, "UINT16"), count, (), is_batched=False)
    assert classes(found) == [f"{values[index]}:{index}" for index in expected]


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name not in ("BYTES", "BOOL")])
def test_every_type_of_number_has_classes(dtype: str) -> None:
    (first,) = classes(classify(wire([1, 3, 2], dtype), 1, (), is_batched=False))
    assert first == ("3.000000:1" if dtype in ("FP16", "BF16", "FP32", "FP64") else "3:1")


def test_what_has_no_order_is_refused() -> None:
    config = ModelConfig()
    config.output.add(name="words", data_type=13, dims=[1])
    config.output.add(name="scores", data_type=11, dims=[5])
    check_classes(config, {"scores": 2})
    with pytest.raises(InvalidInput, match="'words' due to unsupported type 'BYTES'"):
        check_classes(config, {"words": 2})


def config_with(label_filename: str) -> ModelConfig:
    config = ModelConfig(name="m")
    config.output.add(name="scores", label_filename=label_filename)
    config.output.add(name="other")
    return config


def test_labels_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("null\neins\n\ndrei\n")
    assert read_labels(config_with("labels.txt"), tmp_path) == {"scores": ("null", "eins", "", "drei")}
    assert classes(classify(wire([0, 1, 2, 3]), 4, ("null", "eins", "", "drei"), False)) == [
        "3.000000:3:drei",
        "2.000000:2",
        "1.000000:1:eins",
        "0.000000:0:null",
    ]


def test_a_label_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"label_filename 'labels.txt' of output 'scores' cannot be read"):
        read_labels(config_with("labels.txt"), tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_labels(config_with("labels.txt"), tmp_path)


def test_a_label_file_outside_of_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "m").mkdir()
    for name in ("../secret.txt", str(tmp_path / "secret.txt")):
        with pytest.raises(InvalidInput, match="leaves the directory of model 'm'"):
            read_labels(config_with(name), tmp_path / "m")
