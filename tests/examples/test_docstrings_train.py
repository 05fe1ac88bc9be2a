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
DOCSTRINGS = Path(__file__).parents[2] / "examples" / "docstrings"


@pytest.fixture(scope="module")
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docstrings_train", DOCSTRINGS / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_short_training_already_learns_and_exports(train: ModuleType, tmp_path: Path) -> None:
    import torch

    splits = train.load_splits(DOCSTRINGS / "docstrings.npz")
    model = train.train(splits, epochs=3)
    train.export(model, tmp_path / "docstrings.onnx")
    onnx.checker.check_model(tmp_path / "docstrings.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "docstrings.onnx", providers=["CPUExecutionProvider"])
    tokens, _ = splits["validation"]
    for rows, words in ((1, 7), (32, 48)):
        with torch.no_grad():
            expected = model(tokens[:rows, :words]).numpy()
        (found,) = session.run(["logits"], {"tokens": tokens[:rows, :words].numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert train.accuracy(model, splits["validation"]) > 0.3


def test_gaps_never_touch_padding(train: ModuleType) -> None:
    import torch

    torch.manual_seed(0)
    tokens = torch.cat([torch.full((50, 30), 7), torch.zeros(50, 18, dtype=torch.int64)], 1)
    gapped = train.with_gaps(tokens)
    assert (gapped[:, 30:] == 0).all()
    assert 0.15 < (gapped[:, :30] == 1).double().mean() < 0.25
