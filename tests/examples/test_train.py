import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # PyTorch about its own insides
]
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_train", DIGITS / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_short_training_of_the_cnn_already_learns_and_exports(train: ModuleType, tmp_path: Path) -> None:
    import torch

    splits = train.splits_from_digits()
    model = train.train(train.RECIPES["cnn"], splits, epochs=3)
    train.export(model, tmp_path / "digits.onnx")

    onnx.checker.check_model(tmp_path / "digits.onnx", full_check=True)
    operators = [node.op_type for node in onnx.load(tmp_path / "digits.onnx").graph.node]
    assert operators.count("BatchNormalization") == 4
    session = onnxruntime.InferenceSession(tmp_path / "digits.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 32):
        pixels = splits["validation"].pixels[:rows]
        with torch.no_grad():
            expected = model(torch.from_numpy(pixels)).numpy()
        (found,) = session.run(["logits"], {"pixels": pixels})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (logits,) = session.run(["logits"], {"pixels": splits["validation"].pixels})
    assert (logits.argmax(axis=1) == splits["validation"].label).mean() > 0.8


@pytest.mark.parametrize("name", ["mlp", "lstm", "transformer"])
def test_the_other_models_train_and_export(name: str, train: ModuleType, tmp_path: Path) -> None:
    splits = train.splits_from_digits()
    train.export(train.train(train.RECIPES[name], splits, epochs=1), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": splits["test"].pixels[:3]})
    assert logits.shape == (3, 10)


def test_the_committed_data_is_what_the_script_writes(train: ModuleType, tmp_path: Path) -> None:
    train.save_splits(train.splits_from_digits(), tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as made, np.load(DIGITS / "digits.npz") as committed:
        assert set(made) == set(committed)
        for name in made:
            np.testing.assert_array_equal(made[name], committed[name])


def test_shifting_moves_a_scan_by_at_most_one_pixel_and_keeps_its_place_in_the_batch(train: ModuleType) -> None:
    import torch

    torch.manual_seed(0)
    scans = torch.zeros(50, 1, 8, 8)
    scans[:, 0, 4, 4] = torch.arange(1.0, 51.0)
    moved = train.shifted(scans)
    assert moved.shape == scans.shape
    assert torch.equal(moved.amax(dim=(1, 2, 3)), torch.arange(1.0, 51.0))
    places = {(int(row), int(column)) for _, _, row, column in moved.nonzero()}
    assert places == {(row, column) for row in (3, 4, 5) for column in (3, 4, 5)}


def test_the_same_seed_trains_the_same_model(train: ModuleType) -> None:
    splits = train.splits_from_digits()
    first, second = (train.train(train.RECIPES["mlp"], splits, epochs=1).state_dict() for _ in range(2))
    assert all((first[name] == second[name]).all() for name in first)
