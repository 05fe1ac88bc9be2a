"""The digits LSTM, served row by row, answers after the last row what it answers to the whole image."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest

from examples.digits import row_by_row
from tests.conftest import DIGITS, ROOT, RunningService, StartService

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def scans(digits_data: dict[str, Any]) -> Floats:
    pixels: Floats = digits_data["test/pixels"]
    return pixels


@pytest.fixture(scope="module")
def whole(scans: Floats) -> Floats:
    """What the model says that reads whole images."""
    session = onnxruntime.InferenceSession(DIGITS / "digits_lstm.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": scans})
    answer: Floats = logits
    return answer


@pytest.fixture(scope="module")
def rows_service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("rows") / "models"
    command = [sys.executable, "-m", "examples.digits.row_by_row", str(repository)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    with start_service(repository) as running:
        yield running


def test_eight_steps_give_what_the_whole_image_gives(scans: Floats, whole: Floats, tmp_path: Path) -> None:
    model = row_by_row.step_from_whole(onnx.load(DIGITS / "digits_lstm.onnx"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    hidden = cell = np.zeros((len(scans), 96), np.float32)
    for row in range(8):
        logits, hidden, cell = session.run(None, {"row": scans[:, 0, row], "hidden": hidden, "cell": cell})
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-4)
    assert (logits.argmax(1) == whole.argmax(1)).all()


def test_scans_that_come_in_together_are_each_read_to_the_end(
    rows_service: RunningService, scans: Floats, whole: Floats
) -> None:
    """Forty scans; which of them gets its next row is left to chance."""
    chance = random.Random(8)
    left = [number for number in range(40) for _ in range(8)]
    chance.shuffle(left)
    row_of = dict.fromkeys(range(40), 0)
    answers: dict[int, Floats] = {}
    # The environment that trains the examples has no clients.
    import tritonclient.grpc as grpcclient

    with grpcclient.InferenceServerClient(f"127.0.0.1:{rows_service.grpc_port}") as client:
        for number in left:
            row = row_of[number]
            row_of[number] += 1
            tensor = grpcclient.InferInput("row", [1, 8], "FP32")
            tensor.set_data_from_numpy(scans[number, 0, row : row + 1])
            answers[number] = client.infer(
                row_by_row.NAME,
                [tensor],
                sequence_id=f"scan {number}",
                sequence_start=row == 0,
                sequence_end=row == 7,
            ).as_numpy("logits")[0]
    np.testing.assert_allclose([answers[number] for number in range(40)], whole[:40], rtol=0, atol=1e-4)
