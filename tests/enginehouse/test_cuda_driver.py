"""The driver's door, over a fake of its library."""

import ctypes

import numpy as np
import pytest

from enginehouse.cuda_driver import CudaDriver, contiguous, open_driver
from enginehouse.errors import EngineFailed, NotSupported
from tests.tensorrt_fakes import FakeCuda


def test_it_tells_the_compute_capability() -> None:
    assert CudaDriver(FakeCuda((12, 0))).compute_capability == "12.0"


def test_what_is_copied_in_comes_out_again_once_it_is_waited_for() -> None:
    driver = CudaDriver(FakeCuda())
    sent, received = np.arange(5.0), np.zeros(5)
    address = driver.allocate(sent.nbytes)
    driver.copy_in(address, sent)
    driver.copy_out(received, address)
    driver.synchronize()
    np.testing.assert_array_equal(received, sent)


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotSupported, match="GPU 2 was asked for, and this machine has 1"):
        CudaDriver(FakeCuda(), ordinal=2)


def test_a_driver_without_a_usable_gpu_is_refused_in_its_own_words() -> None:
    cuda = FakeCuda()
    cuda.failing = {"cuInit"}
    with pytest.raises(NotSupported, match=r"no GPU that it can use: .*cuInit failed with 700: planted error 700"):
        CudaDriver(cuda)


def test_memory_that_is_not_there_is_an_engine_that_failed() -> None:
    cuda = FakeCuda()
    driver = CudaDriver(cuda)
    cuda.failing = {"cuMemAlloc_v2"}
    with pytest.raises(EngineFailed, match="cuMemAlloc_v2 failed with 2"):
        driver.allocate(8)


def test_a_machine_without_a_driver_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.cuda_driver._LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(NotSupported, match="a test needs an NVIDIA GPU with its driver"):
        open_driver("a test")


def test_the_driver_of_the_machine_is_opened_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def open_library(name: str) -> FakeCuda:
        opened.append(name)
        return FakeCuda()

    monkeypatch.setattr(ctypes, "CDLL", open_library)
    assert open_driver("a test").compute_capability == "8.6"
    assert opened == ["libcuda.so.1"]


def test_a_scalar_stays_a_scalar_in_memory_order() -> None:
    assert contiguous(np.array(3.0)).shape == ()
