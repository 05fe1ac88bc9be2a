"""TensorRT plans on a real GPU, built there and run through their door; needs `tensorrt` or `tensorrt-rtx`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.cuda_driver import open_driver
from enginehouse.errors import MissingExtra
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensorrt_engine import TensorRTEngine
from enginehouse.tensorrt_library import LIBRARIES, LibraryName, import_library
from optimizer.build.tensorrt_build import PlanRequest, build_plan
from optimizer.graph.graph import load_graph
from tests.conftest import DIGITS

HAS_GPU = Path("/proc/driver/nvidia/version").exists()

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no NVIDIA driver on this machine")]


def digits_plan(library: LibraryName, folder: Path, **options: Any) -> Path:
    """A plan for this machine's GPU."""
    try:
        module = import_library(LIBRARIES[library], "this test")
    except MissingExtra:
        pytest.skip(f"{library} is not installed")
    driver = open_driver("this test")
    capability = driver.compute_capability
    driver.close()
    if (
        LIBRARIES[library].takes_target
        and f"SM{capability.replace('.', '')}" not in module.ComputeCapability.__members__
    ):
        pytest.skip(f"{library} builds no plans for compute capability {capability}")
    request = PlanRequest(load_graph(DIGITS / "digits.onnx"), library, capability, (1, 8, 32), **options)
    proof = build_plan(request, folder / "model.plan")
    assert proof.layer_share == {"fp32": 1.0}
    return folder / "model.plan"


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_plan_answers_what_the_cpu_answers(library: LibraryName, tmp_path: Path, digits_data: dict[str, Any]) -> None:
    on_gpu = TensorRTEngine(digits_plan(library, tmp_path), library=library)
    on_cpu = OnnxRuntimeEngine(DIGITS / "digits.onnx")
    for count in (3, 32, 1):
        rows = digits_data["test/pixels"][:count]
        found, expected = on_gpu.run({"pixels": rows})["logits"], on_cpu.run({"pixels": rows})["logits"]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    on_gpu.close()


def test_kernels_that_were_measured_are_kept(tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    digits_plan("tensorrt", tmp_path, timing_cache=cache)
    assert cache.stat().st_size > 0


def test_a_plan_for_later_releases_opens_where_its_code_is_trusted(tmp_path: Path, digits_data: dict[str, Any]) -> None:
    path = digits_plan("tensorrt", tmp_path, version_compatible=True)
    engine = TensorRTEngine(path, library="tensorrt", host_code="allowed")
    assert engine.run({"pixels": digits_data["test/pixels"][:2]})["logits"].shape == (2, 10)
    engine.close()
