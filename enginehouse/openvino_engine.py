"""The door to OpenVINO."""

from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import DTYPES, DType
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.tensor import Tensors, TensorSpec

_BY_OPENVINO_NAME = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16",
    "i32": "INT32", "i64": "INT64", "f16": "FP16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip


class OpenVinoEngine:
    """An ONNX or OpenVINO IR file compiled by OpenVINO for the CPU.

    The precision hint is always FP32: left to itself, OpenVINO computes an FP32 model in BF16 where the CPU can.

    Raises:
        MissingExtra: OpenVINO is not installed.
        EngineFailed: OpenVINO cannot read or compile the file.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            import openvino
        except ImportError as problem:
            raise MissingExtra("openvino", "openvino", f"running {path.name} with OpenVINO") from problem
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._model: Any = openvino.Core().compile_model(str(path), "CPU", settings)
        except RuntimeError as problem:
            raise EngineFailed(f"OpenVINO cannot open {path.name}: {problem}") from problem
        self.inputs = tuple(_spec(port) for port in self._model.inputs)
        self.outputs = tuple(_spec(port) for port in self._model.outputs)

    def run(self, feeds: Tensors) -> Tensors:
        if self._model is None:
            raise EngineFailed("the engine is closed.")
        try:
            results = self._model(dict(feeds), share_inputs=True)
        except RuntimeError as problem:
            raise EngineFailed(f"OpenVINO failed: {problem}") from problem
        return {spec.name: np.array(results[position]) for position, spec in enumerate(self.outputs)}

    def close(self) -> None:
        self._model = None


def _spec(port: Any) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), _dtype(port.get_element_type().get_type_name()), shape)


def _dtype(name: str) -> DType:
    if name not in _BY_OPENVINO_NAME:
        raise InvalidInput(f"OpenVINO element type {name} has no counterpart in the inference protocol.")
    return DTYPES[_BY_OPENVINO_NAME[name]]
