"""The door to TensorRT plans, of either library. Opening one needs an NVIDIA GPU.

So far it ran against fakes of the driver and of the library only, never on a GPU; `tests/gpu` waits for one.
"""

from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.cuda_driver import CudaDriver, contiguous, open_driver
from enginehouse.dtype import DTYPES, Array, DType
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra, NotSupported
from enginehouse.tensor import Tensors, TensorSpec, shape_fits
from enginehouse.tensorrt_library import (
    LIBRARIES,
    TensorRTLibrary,
    errors_in,
    import_library,
    library_named,
    listening_log,
)

_BY_TENSORRT_NAME = {
    "FLOAT": "FP32", "HALF": "FP16", "BF16": "BF16", "INT8": "INT8", "UINT8": "UINT8", "INT32": "INT32",
    "INT64": "INT64", "BOOL": "BOOL",
}  # fmt: skip

# What TensorRT-RTX says of a plan that cannot run here, and the mend.
_INVALIDITY = {
    "MALFORMED_ENGINE": "the file is damaged or no plan of this library: publish the version again",
    "VERSION_MISMATCH": "it was built with another release of the library: install that one, or build the plan again",
    "UNSUPPORTED_CC": "it was not built for this GPU: build it for that target",
    "OLD_CUDA_DRIVER": "the driver is too old for it: update the driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory: free some, or take a larger GPU",
}


class TensorRTEngine:
    """A serialized TensorRT plan on the first GPU, with the first of its optimization profiles.

    Args:
        path: the plan.
        threads: not used; a GPU has its own.
        library: `tensorrt` or `tensorrt-rtx`, whichever built the plan; None takes the one that is installed,
            `tensorrt` before `tensorrt-rtx`.
        host_code: `allowed` lets a plan that was built for later releases bring its own runtime, which is code for
            the CPU: only for files that you trust as you trust a program. What lies beside a plan cannot allow it.

    Raises:
        MissingExtra: the library is not installed.
        NotSupported: there is no GPU, or a tensor is of a type that cannot be served.
        EngineFailed: the plan cannot be opened on this GPU with this library.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,  # noqa: ARG002 - every door has the same signature
        library: str | None = None,
        host_code: str = "refused",
    ) -> None:
        self._library, self._module = _import(path, library)
        self._driver: CudaDriver | None = open_driver(f"running the plan {path.name}")
        self._buffers: dict[str, tuple[int, int]] = {}
        self._log = listening_log(self._module)
        self._engine: Any = None
        self._context: Any = None
        try:
            self._engine = self._open(path, self._driver, host_code == "allowed")
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EngineFailed(f"{self._library.title} cannot make room for {path.name}: {errors_in(self._log)}.")
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            self.inputs = tuple(self._spec(name) for name in names if self._is_input(name))
            self.outputs = tuple(self._spec(name) for name in names if not self._is_input(name))
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Tensors) -> Tensors:
        driver = self._driver
        if driver is None:
            raise EngineFailed("the engine is closed.")
        driver.activate()
        self._log.lines.clear()
        # They must outlive the copies that are queued from them.
        held = [self._feed(driver, spec, feeds) for spec in self.inputs]
        outputs = {spec.name: self._output(driver, spec) for spec in self.outputs}
        if not self._context.execute_async_v3(driver.stream):
            raise EngineFailed(f"{self._library.title} failed: {errors_in(self._log)}.")
        for name, array in outputs.items():
            if name in self._buffers:
                driver.copy_out(array, self._buffers[name][0])
        driver.synchronize()
        del held
        return outputs

    def close(self) -> None:
        """Give the GPU's memory back; may be called twice."""
        driver, self._driver = self._driver, None
        if driver is None:
            return
        driver.activate()
        self._context = None
        self._engine = None
        for address, _ in self._buffers.values():
            driver.free(address)
        self._buffers.clear()
        driver.close()

    def _open(self, path: Path, driver: CudaDriver, host_code_allowed: bool) -> Any:
        try:
            plan = path.read_bytes()
        except OSError as problem:
            raise EngineFailed(f"{path} cannot be read: {problem.strerror or problem}.") from problem
        runtime = self._module.Runtime(self._log)
        runtime.engine_host_code_allowed = host_code_allowed
        where = f"{self._library.title} cannot open {path.name} on this GPU of compute capability"
        if self._library.tells_validity:
            problem_text = _invalidity(self._module, runtime, plan)
            if problem_text:
                raise EngineFailed(f"{where} {driver.compute_capability}: {problem_text}.")
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineFailed(
                f"{where} {driver.compute_capability}: {errors_in(self._log)}. A plan runs with the release of the "
                "library and on the kind of GPU that it was built for; build one for this machine."
            )
        return engine

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._module.TensorIOMode.INPUT)

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(max(-1, size) for size in self._engine.get_tensor_shape(name))
        return TensorSpec(name, _dtype(name, self._engine.get_tensor_dtype(name).name), shape)

    def _is_on_host(self, name: str) -> bool:
        """Whether TensorRT reads or writes it with the CPU: what other shapes are computed from."""
        return bool(self._engine.get_tensor_location(name) == self._module.TensorLocation.HOST)

    def _feed(self, driver: CudaDriver, spec: TensorSpec, feeds: Tensors) -> Array:
        array = _checked(spec, feeds)
        if not self._context.set_input_shape(spec.name, array.shape):
            raise InvalidInput(
                f"input '{spec.name}' has shape {list(array.shape)}; the plan takes {self._limits(spec.name)}. "
                "Send a shape between the two, or build the plan for this one."
            )
        if self._is_on_host(spec.name):
            self._context.set_tensor_address(spec.name, array.ctypes.data)
        else:
            address = self._buffer(driver, spec.name, array.nbytes)
            driver.copy_in(address, array)
        return array

    def _limits(self, name: str) -> str:
        lowest, _, highest = self._engine.get_tensor_profile_shape(name, 0)
        return f"{list(lowest)} to {list(highest)}"

    def _output(self, driver: CudaDriver, spec: TensorSpec) -> Array:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise NotSupported(
                f"the size of output '{spec.name}' depends on the values it is computed from, which this door to "
                "TensorRT does not serve; serve the ONNX engine of this version instead."
            )
        array: Array = np.empty(shape, spec.dtype.numpy)
        if self._is_on_host(spec.name):
            self._context.set_tensor_address(spec.name, array.ctypes.data)
        else:
            self._buffer(driver, spec.name, array.nbytes)
        return array

    def _buffer(self, driver: CudaDriver, name: str, size_bytes: int) -> int:
        """Memory on the GPU for a tensor, kept for the next run and replaced when it is too small."""
        address, capacity = self._buffers.get(name, (0, -1))
        if capacity < size_bytes:
            if name in self._buffers:
                del self._buffers[name]
                driver.free(address)
            address = driver.allocate(max(1, size_bytes))
            self._buffers[name] = (address, size_bytes)
            self._context.set_tensor_address(name, address)
        return address


def _import(path: Path, library: str | None) -> tuple[TensorRTLibrary, Any]:
    purpose = f"running the plan {path.name}"
    candidates = list(LIBRARIES.values()) if library is None else [library_named(library)]
    missing: list[MissingExtra] = []
    for candidate in candidates:
        try:
            return candidate, import_library(candidate, purpose)
        except MissingExtra as problem:
            missing.append(problem)
    raise missing[0]


def _invalidity(module: Any, runtime: Any, plan: bytes) -> str:
    """Say why a plan is not valid here, as its header tells; empty if it is, or if the header does not tell."""
    validity, diagnostics = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity != module.EngineValidity.INVALID:
        return ""
    members = module.EngineInvalidityDiagnostics.__members__
    return "; ".join(text for name, text in _INVALIDITY.items() if int(members[name]) & int(diagnostics))


def _checked(spec: TensorSpec, feeds: Tensors) -> Array:
    if spec.name not in feeds:
        raise InvalidInput(f"missing tensor '{spec.name}'; the engine was given {', '.join(feeds) or 'none'}.")
    array = feeds[spec.name]
    if array.dtype != spec.dtype.numpy or not shape_fits(array.shape, spec.shape):
        raise InvalidInput(f"input '{spec.name}' is {array.dtype} {list(array.shape)}; the plan takes {spec}.")
    return contiguous(array)


def _dtype(name: str, tensorrt_name: str) -> DType:
    if tensorrt_name not in _BY_TENSORRT_NAME:
        raise NotSupported(f"tensor '{name}' is of TensorRT type {tensorrt_name}, which no client could send or read.")
    return DTYPES[_BY_TENSORRT_NAME[tensorrt_name]]
