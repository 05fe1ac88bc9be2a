"""ONNX Runtime's CUDA provider on a real GPU; needs the extra `gpu` instead of `cpu`."""

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from tests.conftest import DIGITS, StartService

HAS_GPU = Path("/proc/driver/nvidia/version").exists()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA driver on this machine")]


def test_the_gpu_answers_what_the_cpu_answers(digits_data: dict[str, Any]) -> None:
    rows = digits_data["test/pixels"]
    on_gpu = OnnxRuntimeEngine(DIGITS / "digits.onnx", provider="CUDAExecutionProvider")
    on_cpu = OnnxRuntimeEngine(DIGITS / "digits.onnx")
    found, expected = on_gpu.run({"pixels": rows})["logits"], on_cpu.run({"pixels": rows})["logits"]
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


def test_an_instance_group_on_the_gpu_is_served(start_service: StartService, tmp_path: Path) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    shutil.copy(DIGITS / "digits.onnx", tmp_path / "digits" / "1" / "model.onnx")
    config = "max_batch_size: 8 instance_group [ { kind: KIND_GPU count: 1 } ]"
    (tmp_path / "digits" / "config.pbtxt").write_text(config)
    with start_service(tmp_path) as service:
        body = (DIGITS / "request.json").read_bytes()
        with urllib.request.urlopen(f"{service.url}/v2/models/digits/infer", body) as answer:
            assert int(np.argmax(json.load(answer)["outputs"][0]["data"])) == 7
