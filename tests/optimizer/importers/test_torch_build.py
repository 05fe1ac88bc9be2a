"""A PyTorch program through the whole command: imported, rewritten, quantized, verified, published."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from enginehouse.evidence import read_evidence
from tests.conftest import ROOT


def export_digits_program(path: Path) -> Any:
    """A small untrained network over the digits' shape; gives what PyTorch itself answers for a row."""
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16 * 64, 10)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    return model


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch about its own insides
def test_a_program_is_built_and_published_and_answers_as_pytorch_does(
    tmp_path: Path, digits_data: dict[str, Any]
) -> None:
    import torch

    model = export_digits_program(tmp_path / "program.pt2")
    rows = digits_data["test/pixels"][:8]
    with torch.no_grad():
        expected = model(torch.from_numpy(rows)).numpy()
    data = {name.replace("pixels", "input"): array for name, array in digits_data.items() if "label" not in name}
    np.savez(tmp_path / "data.npz", **data)
    command = [sys.executable, "-m", "optimizer", "build", str(tmp_path / "program.pt2"), "--name", "program"]
    options = ["--repository", str(tmp_path / "models"), "--data", str(tmp_path / "data.npz")]
    done = subprocess.run(
        [*command, *options, "--benchmark-seconds", "0.05"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    version = tmp_path / "models" / "program" / "1"
    evidence = read_evidence(version)
    assert evidence is not None
    assert evidence.source.file.endswith("program.pt2")
    assert {candidate.name for candidate in evidence.candidates} >= {"source", "fp32", "int8"}
    session = onnxruntime.InferenceSession(version / "fallback.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: rows})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
