import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from optimizer.importers import torch_export


def test_the_deepest_cause_is_told_in_one_sentence_without_colours() -> None:
    error = RuntimeError("we ran into an error")
    error.__cause__ = ValueError("\x1b[96mthe cause\x1b[0m\nin two lines. And advice.")
    assert torch_export.first_sentence(error) == "the cause in two lines."


def test_an_error_without_words_is_told_by_its_type() -> None:
    assert torch_export.first_sentence(KeyError()) == "KeyError."


def test_the_data_file_lies_beside_the_target() -> None:
    assert torch_export.data_file(Path("there/model.onnx")) == Path("there/model.onnx.data")


def test_a_refusal_is_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        torch_export.refuse(torch_export.EXIT_UNSUPPORTED, "why.")
    assert ended.value.code == torch_export.EXIT_UNSUPPORTED
    assert capsys.readouterr().err == f"{torch_export.REASON}why.\n"


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, optimizer.importers.torch_export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch about its own insides
def test_weights_beyond_the_limit_lie_in_a_file_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch_export, "MAX_EMBEDDED_BYTES", 1000)
    model = torch.nn.Linear(64, 8).eval()
    source, target = tmp_path / "dense.pt2", tmp_path / "dense.onnx"
    torch.export.save(torch.export.export(model, (torch.zeros(2, 64),)), source)
    torch_export.main(source, target)

    assert torch_export.data_file(target).stat().st_size >= 64 * 8 * 4
    assert target.stat().st_size < 2000
    onnx.checker.check_model(target)
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(0).random((2, 64), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(rows)).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: rows})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
