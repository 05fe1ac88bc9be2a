"""A fake of NVIDIA's driver and of the documented names of a TensorRT library, over the memory of this process.

Copies and computations are queued, as on a GPU, and happen when the stream is waited for. A fake plan doubles its
input.
"""

import ctypes
import json
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

HEADER_BYTES = 32
_MAGIC = b"FAKEPLAN"
_NUMPY = {"FLOAT": np.float32, "INT64": np.int64, "FP8": np.uint8}


class FakeCuda:
    """What `ctypes` would load as the driver's library: memory, copies, one device."""

    def __init__(self, capability: tuple[int, int] = (8, 6), devices: int = 1) -> None:
        self.capability = capability
        self.devices = devices
        self.failing: set[str] = set()
        self.memory: dict[int, Any] = {}
        self.queue: list[Callable[[], object]] = []
        self.closed: list[str] = []

    def cuInit(self, _: int) -> int:  # noqa: N802 - the driver's name
        return self._status("cuInit")

    def cuDeviceGetCount(self, found: Any) -> int:  # noqa: N802
        return self._set(found, self.devices)

    def cuDeviceGet(self, found: Any, ordinal: int) -> int:  # noqa: N802
        return self._set(found, ordinal)

    def cuDeviceGetAttribute(self, found: Any, attribute: int, _: int) -> int:  # noqa: N802
        return self._set(found, self.capability[attribute - 75])

    def cuDevicePrimaryCtxRetain(self, found: Any, _: int) -> int:  # noqa: N802
        return self._set(found, 11)

    def cuDevicePrimaryCtxRelease_v2(self, _: int) -> int:  # noqa: N802
        self.closed.append("context")
        return 0

    def cuCtxSetCurrent(self, _: Any) -> int:  # noqa: N802
        return 0

    def cuStreamCreate(self, found: Any, _: int) -> int:  # noqa: N802
        return self._set(found, 12)

    def cuStreamDestroy_v2(self, _: Any) -> int:  # noqa: N802
        self.closed.append("stream")
        return 0

    def cuStreamSynchronize(self, _: Any) -> int:  # noqa: N802
        for step in self.queue:
            step()
        self.queue.clear()
        return self._status("cuStreamSynchronize")

    def cuMemAlloc_v2(self, found: Any, size: Any) -> int:  # noqa: N802
        if "cuMemAlloc_v2" in self.failing:
            return 2
        buffer = ctypes.create_string_buffer(size.value)
        address = ctypes.addressof(buffer)
        self.memory[address] = buffer
        return self._set(found, address)

    def cuMemFree_v2(self, address: Any) -> int:  # noqa: N802
        del self.memory[address.value]
        return 0

    def cuMemcpyHtoDAsync_v2(self, target: Any, source: Any, size: Any, _: Any) -> int:  # noqa: N802
        return self._copy(target, source, size)

    def cuMemcpyDtoHAsync_v2(self, target: Any, source: Any, size: Any, _: Any) -> int:  # noqa: N802
        return self._copy(target, source, size)

    def cuGetErrorString(self, status: int, found: Any) -> int:  # noqa: N802
        found._obj.value = f"planted error {status}".encode()
        return 0

    def _copy(self, target: Any, source: Any, size: Any) -> int:
        self.queue.append(lambda: ctypes.memmove(target.value, source.value, size.value))
        return 0

    def _set(self, found: Any, value: int) -> int:
        found._obj.value = value
        return 0

    def _status(self, function: str) -> int:
        return 700 if function in self.failing else 0


class Severity(IntEnum):
    ERROR = 1
    WARNING = 2
    VERBOSE = 4


def fake_plan(capability: str = "8.6", most: int = 8, dtype: str = "FLOAT", **options: Any) -> bytes:
    """A plan of one input `x` [-1, 3], 1 to `most` rows, and one output `y`; `options` plants oddities."""
    header = (_MAGIC + capability.encode()).ljust(HEADER_BYTES)
    return header + json.dumps({"capability": capability, "most": most, "dtype": dtype, **options}).encode()


def fake_library(name: str, cuda: FakeCuda) -> ModuleType:
    """The names of a TensorRT module that running a plan takes."""
    module = ModuleType(name)
    names: dict[str, Any] = {
        "ILogger": FakeLogger,
        "DataType": IntEnum("DataType", list(_NUMPY)),
        "TensorIOMode": IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"]),
        "TensorLocation": IntEnum("TensorLocation", ["DEVICE", "HOST"]),
        "EngineValidity": IntEnum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"]),
        "EngineInvalidityDiagnostics": IntEnum(
            "EngineInvalidityDiagnostics",
            {
                "VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "OLD_CUDA_RUNTIME": 8,
                "INSUFFICIENT_GPU_MEMORY": 16, "MALFORMED_ENGINE": 32, "CUDA_ERROR": 64,
            },
        ),
    }  # fmt: skip
    for key, value in names.items():
        setattr(module, key, value)
    module.Runtime = lambda log: FakeRuntime(module, log, cuda)  # type: ignore[attr-defined]
    return module


class FakeLogger:
    """The base that the library's log is made from; subclasses define `log`."""

    def error(self, text: str) -> None:
        self.log(Severity.ERROR, text)  # type: ignore[attr-defined]


class FakeRuntime:
    engine_header_size = HEADER_BYTES

    def __init__(self, module: Any, log: FakeLogger, cuda: FakeCuda) -> None:
        self.engine_host_code_allowed = False
        self._module, self._log, self._cuda = module, log, cuda

    def get_engine_validity(self, header: bytes) -> tuple[Any, int]:
        assert len(header) <= HEADER_BYTES
        found = self._module.EngineInvalidityDiagnostics
        if not header.startswith(_MAGIC):
            return self._module.EngineValidity.INVALID, int(found.MALFORMED_ENGINE)
        if header[len(_MAGIC) :].decode().strip() != self._here():
            return self._module.EngineValidity.INVALID, int(found.UNSUPPORTED_CC)
        return self._module.EngineValidity.VALID, 0

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        options = json.loads(plan[HEADER_BYTES:]) if plan.startswith(_MAGIC) else {"capability": "none"}
        if options["capability"] != self._here():
            self._log.error(f"Error Code 6: the plan expects compute {options['capability']}")
            return None
        if options.get("host_code") and not self.engine_host_code_allowed:
            self._log.error("the plan holds host code, which is not allowed")
            return None
        return FakeEngine(self._module, self._log, self._cuda, options)

    def _here(self) -> str:
        return ".".join(map(str, self._cuda.capability))


class FakeEngine:
    """One input, one output of twice its values."""

    num_io_tensors = 2

    def __init__(self, module: Any, log: FakeLogger, cuda: FakeCuda, options: dict[str, Any]) -> None:
        self.module, self.log, self.cuda, self.options = module, log, cuda, options

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode.INPUT if name == "x" else self.module.TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        return self.module.TensorLocation.HOST if name in self.options.get("host", ()) else 1

    def get_tensor_dtype(self, _: str) -> Any:
        return self.module.DataType[self.options["dtype"]]

    def get_tensor_shape(self, _: str) -> tuple[int, ...]:
        return (-1, 3)

    def get_tensor_profile_shape(self, _: str, profile: int) -> tuple[tuple[int, ...], ...]:
        assert profile == 0
        return (1, 3), (1, 3), (self.options["most"], 3)

    def create_engine_inspector(self) -> "FakeEngine":
        return self

    def get_engine_information(self, kind: Any) -> str:
        assert kind == self.module.LayerInformationFormat.JSON
        return json.dumps({"Layers": self.options.get("layers", [])})

    def create_execution_context(self) -> "FakeContext | None":
        if self.options.get("too_large"):
            self.log.error("out of memory")
            return None
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, _: str, shape: tuple[int, ...]) -> bool:
        self._shape = tuple(shape)
        return 1 <= shape[0] <= int(self._engine.options["most"])

    def get_tensor_shape(self, _: str) -> tuple[int, ...]:
        return (-1, 3) if self._engine.options.get("data_dependent") else self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 12
        if self._engine.options.get("fails"):
            self._engine.log.error("a kernel failed")
            return False
        self._engine.cuda.queue.append(self._compute)
        return True

    def _compute(self) -> None:
        dtype = np.dtype(_NUMPY[self._engine.options["dtype"]])
        size = int(np.prod(self._shape)) * dtype.itemsize
        values = np.frombuffer(ctypes.string_at(self._addresses["x"], size), dtype)
        ctypes.memmove(self._addresses["y"], (2 * values).astype(dtype).tobytes(), size)
