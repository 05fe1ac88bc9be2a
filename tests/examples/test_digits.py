from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from sklearn.datasets import load_digits

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MODELS = ("digits.onnx", "digits_mlp.onnx", "digits_lstm.onnx", "digits_transformer.onnx")
SHARES = {"train": 0.5, "calibration": 0.125, "validation": 0.175, "test": 0.2}


@pytest.fixture(scope="module")
def data() -> dict[str, npt.NDArray[np.generic]]:
    with np.load(DIGITS / "digits.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def operators(file: str) -> list[str]:
    return [node.op_type for node in onnx.load(DIGITS / file).graph.node]


def test_the_model_and_data_of_the_quick_start_are_small() -> None:
    assert (DIGITS / "digits.onnx").stat().st_size < 700_000
    assert sum((DIGITS / name).stat().st_size for name in ("digits.onnx", "digits.npz")) < 1_000_000


def test_the_data_has_four_splits_of_pixels_and_labels(data: dict[str, npt.NDArray[np.generic]]) -> None:
    assert set(data) == {f"{split}/{name}" for split in SHARES for name in ("pixels", "label")}
    for split in SHARES:
        pixels, label = data[f"{split}/pixels"], data[f"{split}/label"]
        assert pixels.dtype == np.float32
        assert label.dtype == np.int64
        assert pixels.shape == (len(label), 1, 8, 8)


def test_every_scan_of_load_digits_is_in_exactly_one_split(data: dict[str, npt.NDArray[np.generic]]) -> None:
    scans, label = load_digits(return_X_y=True)
    expected = {(scan / 16).astype(np.float32).tobytes(): digit for scan, digit in zip(scans, label, strict=True)}
    found = [
        (pixels.tobytes(), digit)
        for split in SHARES
        for pixels, digit in zip(data[f"{split}/pixels"], data[f"{split}/label"], strict=True)
    ]
    assert len(found) == len(expected) == len(scans) == 1797
    assert dict(found) == expected


@pytest.mark.parametrize("split", SHARES)
def test_each_split_is_stratified(split: str, data: dict[str, npt.NDArray[np.generic]]) -> None:
    _, every = load_digits(return_X_y=True)
    label = data[f"{split}/label"]
    assert len(label) == pytest.approx(SHARES[split] * len(every), abs=2)  # each of three cuts rounds
    expected = np.bincount(every) * len(label) / len(every)
    np.testing.assert_allclose(np.bincount(label.astype(np.int64)), expected, rtol=0, atol=1.5)


def test_validation_and_test_are_large_enough_to_judge(data: dict[str, npt.NDArray[np.generic]]) -> None:
    assert min(len(data["validation/label"]), len(data["test/label"])) >= 300


@pytest.mark.parametrize("file", MODELS)
def test_each_model_is_valid_with_an_open_batch_axis_and_weights_inside(file: str) -> None:
    model = onnx.load(DIGITS / file, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not model.functions
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"pixels": ["batch", 1, 8, 8], "logits": ["batch", 10]}


@pytest.mark.parametrize("file", MODELS)
def test_no_model_tells_about_the_machine_that_exported_it(file: str) -> None:
    model = onnx.load(DIGITS / file)
    assert not model.metadata_props
    assert not any(node.metadata_props for node in model.graph.node)
    assert not any(value.metadata_props for value in model.graph.value_info)
    assert b".py" not in (DIGITS / file).read_bytes()


def test_the_models_still_have_what_the_optimizer_is_there_to_remove() -> None:
    assert operators("digits.onnx").count("BatchNormalization") == 4
    assert operators("digits.onnx").count("Conv") == 4
    assert operators("digits_mlp.onnx").count("BatchNormalization") == 2
    assert operators("digits_lstm.onnx").count("LSTM") == 1
    assert operators("digits_transformer.onnx").count("LayerNormalization") == 5
    assert operators("digits_transformer.onnx").count("Softmax") == 2
    for file in MODELS:
        normalizations = [node for node in onnx.load(DIGITS / file).graph.node if node.op_type == "BatchNormalization"]
        assert not any(field.name == "training_mode" and field.i for node in normalizations for field in node.attribute)
        assert "Dropout" not in operators(file)


@pytest.mark.parametrize(
    ("file", "least"),
    [
        ("digits.onnx", 0.98),
        ("digits_mlp.onnx", 0.95),
        ("digits_lstm.onnx", 0.95),
        ("digits_transformer.onnx", 0.97),
    ],
)
def test_each_model_knows_its_digits(file: str, least: float, data: dict[str, npt.NDArray[np.generic]]) -> None:
    session = onnxruntime.InferenceSession(DIGITS / file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": data["test/pixels"]})
    assert (logits.argmax(axis=1) == data["test/label"]).mean() >= least


def test_the_readme_tells_the_measured_accuracies(data: dict[str, npt.NDArray[np.generic]]) -> None:
    readme = (DIGITS / "README.md").read_text()
    for name, file in zip(("cnn", "mlp", "lstm", "transformer"), MODELS, strict=True):
        session = onnxruntime.InferenceSession(DIGITS / file, providers=["CPUExecutionProvider"])
        cells = []
        for split in SHARES:
            (logits,) = session.run(["logits"], {"pixels": data[f"{split}/pixels"]})
            cells.append(f"{(logits.argmax(axis=1) == data[f'{split}/label']).mean():.2%}")
        assert f"| {name} | {' | '.join(cells)} |" in readme
