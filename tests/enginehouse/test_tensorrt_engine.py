"""The door to TensorRT plans, against a fake driver and a fake library; on a GPU see `tests/gpu`."""

import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from enginehouse.cuda_driver import CudaDriver
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra, NotSupported
from enginehouse.open_engine import open_engine
from enginehouse.tensorrt_engine import _BY_TENSORRT_NAME, _INVALIDITY, TensorRTEngine, _dtype, _invalidity
from enginehouse.tensorrt_library import LIBRARIES, import_library, listening_log
from tests.tensorrt_fakes import FakeCuda, fake_library, fake_plan

OpenPlan = Callable[..., TensorRTEngine]


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def open_plan(cuda: FakeCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenPlan:
    """Opens a fake plan with a fake of the library that is asked for, the other one missing."""

    def open_it(plan: bytes, library: str = "tensorrt", **arguments: str) -> TensorRTEngine:
        for module in ("tensorrt", "tensorrt_rtx"):
            is_there = module == library.replace("-", "_")
            monkeypatch.setitem(sys.modules, module, fake_library(module, cuda) if is_there else None)
        monkeypatch.setattr("enginehouse.tensorrt_engine.open_driver", lambda _: CudaDriver(cuda))
        path = tmp_path / "model.plan"
        path.write_bytes(plan)
        return TensorRTEngine(path, 1, **arguments)

    return open_it


def rows(count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt\]"):
        TensorRTEngine(Path("model.plan"))
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt-rtx\]"):
        TensorRTEngine(Path("model.plan"), library="tensorrt-rtx")


def test_an_unknown_library_is_refused() -> None:
    with pytest.raises(NotSupported, match="expected one of tensorrt, tensorrt-rtx"):
        TensorRTEngine(Path("model.plan"), library="tensorflow")


def test_a_machine_without_a_driver_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_library("tensorrt", FakeCuda()))
    monkeypatch.setattr("enginehouse.cuda_driver._LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(NotSupported, match=r"model\.plan needs an NVIDIA GPU .* take an ONNX engine"):
        TensorRTEngine(Path("model.plan"))


@pytest.mark.parametrize("library", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_computes_batches_of_every_size_of_its_profile(open_plan: OpenPlan, library: str) -> None:
    engine = open_plan(fake_plan(), library)
    assert [str(spec) for spec in (*engine.inputs, *engine.outputs)] == ["x FP32 [-1, 3]", "y FP32 [-1, 3]"]
    for count in (2, 8, 1):
        np.testing.assert_array_equal(engine.run({"x": rows(count)})["y"], 2 * rows(count))


def test_an_answer_is_not_overwritten_by_the_next_one(open_plan: OpenPlan) -> None:
    engine = open_plan(fake_plan())
    first = engine.run({"x": rows(2)})["y"]
    engine.run({"x": rows(2) + 1})
    np.testing.assert_array_equal(first, 2 * rows(2))


def test_rows_that_do_not_lie_in_order_are_put_in_order(open_plan: OpenPlan) -> None:
    engine = open_plan(fake_plan())
    np.testing.assert_array_equal(engine.run({"x": rows(4)[::2]})["y"], 2 * rows(4)[::2])


def test_tensors_that_the_library_keeps_on_the_host_never_reach_the_gpu(open_plan: OpenPlan, cuda: FakeCuda) -> None:
    engine = open_plan(fake_plan(dtype="INT64", host=["x", "y"]))
    np.testing.assert_array_equal(engine.run({"x": rows(2).astype(np.int64)})["y"], 2 * rows(2))
    assert not cuda.memory


def test_memory_on_the_gpu_is_kept_between_runs_and_given_back_at_the_end(open_plan: OpenPlan, cuda: FakeCuda) -> None:
    engine = open_plan(fake_plan())
    engine.run({"x": rows(4)})
    held = set(cuda.memory)
    engine.run({"x": rows(3)})
    assert set(cuda.memory) == held
    engine.run({"x": rows(8)})
    assert len(cuda.memory) == 2
    engine.close()
    engine.close()
    assert not cuda.memory
    assert cuda.closed == ["stream", "context"]
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({"x": rows(1)})


def test_more_rows_than_the_profile_has_are_refused_with_its_limits(open_plan: OpenPlan) -> None:
    engine = open_plan(fake_plan(most=8))
    with pytest.raises(InvalidInput, match=r"has shape \[9, 3\]; the plan takes \[1, 3\] to \[8, 3\]"):
        engine.run({"x": rows(9)})


def test_feeds_that_are_not_what_the_plan_takes_are_refused(open_plan: OpenPlan) -> None:
    engine = open_plan(fake_plan())
    with pytest.raises(InvalidInput, match="missing tensor 'x'; the engine was given z"):
        engine.run({"z": rows(1)})
    with pytest.raises(InvalidInput, match=r"'x' is float64 \[1, 3\]; the plan takes x FP32 \[-1, 3\]"):
        engine.run({"x": rows(1).astype(np.float64)})
    with pytest.raises(InvalidInput, match=r"'x' is float32 \[1, 4\]"):
        engine.run({"x": np.zeros((1, 4), np.float32)})


def test_a_run_that_fails_says_what_the_library_says(open_plan: OpenPlan) -> None:
    with pytest.raises(EngineFailed, match="TensorRT failed: a kernel failed"):
        open_plan(fake_plan(fails=True)).run({"x": rows(1)})


def test_a_gpu_that_fails_says_what_the_driver_says(open_plan: OpenPlan, cuda: FakeCuda) -> None:
    engine = open_plan(fake_plan())
    cuda.failing = {"cuStreamSynchronize"}
    with pytest.raises(EngineFailed, match="cuStreamSynchronize failed with 700: planted error 700"):
        engine.run({"x": rows(1)})


def test_an_output_whose_size_depends_on_values_is_refused(open_plan: OpenPlan) -> None:
    with pytest.raises(NotSupported, match="size of output 'y' depends on the values"):
        open_plan(fake_plan(data_dependent=True)).run({"x": rows(1)})


def test_a_type_that_no_client_can_send_is_refused(open_plan: OpenPlan, cuda: FakeCuda) -> None:
    with pytest.raises(NotSupported, match="tensor 'x' is of TensorRT type FP8"):
        open_plan(fake_plan(dtype="FP8"))
    assert cuda.closed == ["stream", "context"]


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("tensorrt", r"of compute capability 8\.6: .*expects compute 9\.0.*build one for this machine"),
        ("tensorrt-rtx", r"of compute capability 8\.6: it was not built for this GPU: build it for that target"),
    ],
)
def test_a_plan_for_another_gpu_is_refused(open_plan: OpenPlan, library: str, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        open_plan(fake_plan("9.0"), library)


def test_a_damaged_plan_is_refused_and_the_gpu_let_go(open_plan: OpenPlan, cuda: FakeCuda) -> None:
    with pytest.raises(EngineFailed, match="the file is damaged or no plan of this library"):
        open_plan(b"no plan", "tensorrt-rtx")
    assert cuda.closed == ["stream", "context"]


def test_a_context_that_does_not_fit_is_refused(open_plan: OpenPlan) -> None:
    with pytest.raises(EngineFailed, match=r"cannot make room for model\.plan: out of memory"):
        open_plan(fake_plan(too_large=True))


def test_code_for_the_cpu_runs_only_where_it_is_allowed(open_plan: OpenPlan) -> None:
    with pytest.raises(EngineFailed, match="host code, which is not allowed"):
        open_plan(fake_plan(host_code=True))
    engine = open_plan(fake_plan(host_code=True), host_code="allowed")
    np.testing.assert_array_equal(engine.run({"x": rows(1)})["y"], 2 * rows(1))


def test_an_unreadable_file_is_an_engine_that_failed(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_library("tensorrt", cuda))
    monkeypatch.setattr("enginehouse.tensorrt_engine.open_driver", lambda _: CudaDriver(cuda))
    with pytest.raises(EngineFailed, match="cannot be read: No such file"):
        TensorRTEngine(Path("nowhere.plan"))
    assert cuda.closed == ["stream", "context"]


def test_bf16_is_a_type_like_any_other() -> None:
    assert _dtype("x", "BF16").numpy == np.dtype(ml_dtypes.bfloat16)


def test_evidence_tells_which_library_opens_a_plan(open_plan: OpenPlan, tmp_path: Path) -> None:
    open_plan(fake_plan(), "tensorrt-rtx").close()
    engine = open_engine(tmp_path / "model.plan", "tensorrt_plan", 1, settings={"library": "tensorrt-rtx"})
    np.testing.assert_array_equal(engine.run({"x": rows(1)})["y"], 2 * rows(1))
    with pytest.raises(MissingExtra, match="tensorrt"):
        open_engine(tmp_path / "model.plan", "tensorrt_plan", 1, settings={"library": "tensorrt"})


@pytest.mark.rtx
def test_every_name_that_the_door_uses_is_in_the_real_library() -> None:
    module = import_library(LIBRARIES["tensorrt-rtx"], "this test")
    assert set(_BY_TENSORRT_NAME) <= set(module.DataType.__members__)
    assert set(_INVALIDITY) <= set(module.EngineInvalidityDiagnostics.__members__)
    assert module.TensorIOMode.INPUT != module.TensorIOMode.OUTPUT
    assert module.TensorLocation.HOST != module.TensorLocation.DEVICE
    used = {
        module.Runtime: "deserialize_cuda_engine engine_header_size engine_host_code_allowed get_engine_validity",
        module.ICudaEngine: "create_execution_context get_tensor_dtype get_tensor_location get_tensor_mode "
        "get_tensor_name get_tensor_profile_shape get_tensor_shape num_io_tensors",
        module.IExecutionContext: "execute_async_v3 get_tensor_shape set_input_shape set_tensor_address",
    }
    for owner, names in used.items():
        assert set(names.split()) <= set(dir(owner))


@pytest.mark.rtx
def test_the_real_library_tells_a_damaged_plan() -> None:
    module = import_library(LIBRARIES["tensorrt-rtx"], "this test")
    runtime = module.Runtime(listening_log(module))
    assert "the file is damaged" in _invalidity(module, runtime, b"no plan" * 20)
