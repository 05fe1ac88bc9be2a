"""The door to OpenVINO."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import DTYPES, Array, DType
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.tensor import Tensors, TensorSpec

_BY_OPENVINO_NAME = {
    "boolean": "BOOL", "u8": "UINT8", "u16": "UINT16", "u32": "UINT32", "u64": "UINT64", "i8": "INT8", "i16": "INT16",
    "i32": "INT32", "i64": "INT64", "f16": "FP16", "f32": "FP32", "f64": "FP64",
}  # fmt: skip
# What its ONNX reader appends to the name of a model's output; a fused tensor may have other names beside that one.
_RESULT_SUFFIX = "/sink_port_0"


class OpenVinoEngine:
    """An ONNX or OpenVINO IR file compiled by OpenVINO for the CPU.

    Args:
        path: the file.
        threads: threads that one run uses.
        precision_hint: what float layers are computed in: `f32`, `bf16` or `f16`. It is always told to OpenVINO, which
            by itself computes an FP32 model in BF16 where the CPU can. A CPU that lacks the precision gets another
            one without a word; `optimizer/build/read_back.py` finds out which.
        options: further properties of the CPU device, by OpenVINO's own names.

    Raises:
        MissingExtra: OpenVINO is not installed.
        InvalidInput: an input or output is of a type that is not handed in or out here.
        EngineFailed: OpenVINO cannot read or compile the file.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        precision_hint: str = "f32",
        options: Mapping[str, str] | None = None,
    ) -> None:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            **(options or {}),
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision_hint,
        }
        compiled = compile_model(path, settings)
        self.inputs = tuple(_spec(port, path) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, path) for port in compiled.outputs)
        self._compiled: Any = compiled
        self._request: Any = compiled.create_infer_request()
        self._tensor: Any = _tensor_class()

    def run(self, feeds: Tensors) -> Tensors:
        """Compute every output. The arrays are the caller's own: the next run does not write into them."""
        request = self._request
        if request is None:
            raise EngineFailed("the engine is closed.")
        arrays = [_readable(feeds, spec) for spec in self.inputs]
        try:
            for position, array in enumerate(arrays):
                request.set_input_tensor(position, self._tensor(array, shared_memory=True))
            request.infer({}, share_inputs=True, share_outputs=True)
            outputs = [request.get_output_tensor(position).data for position in range(len(self.outputs))]
        except RuntimeError as problem:
            raise EngineFailed(f"OpenVINO failed: {reason(problem)}") from problem
        return {spec.name: np.array(output) for spec, output in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        self._request = self._compiled = None

    def runtime_nodes(self) -> list[dict[str, str]]:
        """What OpenVINO made of the file: per node its `name` and all that the library tells, by its own words."""
        nodes = self._compiled.get_runtime_model().get_ordered_ops()
        return [{"name": node.get_friendly_name(), **_texts(node.get_rt_info())} for node in nodes]

    def node_times(self) -> dict[str, float]:
        """Milliseconds of each node that the last run executed; needs the option `PERF_COUNT`."""
        counted = self._request.get_profiling_info()
        return {
            node.node_name: node.real_time.total_seconds() * 1000 for node in counted if node.status.name == "EXECUTED"
        }


def compile_model(path: Path, settings: Mapping[str, object]) -> Any:
    """Compile a file for the CPU into OpenVINO's own object; the errors are those of `OpenVinoEngine`."""
    try:
        import openvino
    except ImportError as problem:
        raise MissingExtra("openvino", "openvino", f"running {path.name} with OpenVINO") from problem
    try:
        return openvino.Core().compile_model(str(path), "CPU", dict(settings))
    except RuntimeError as problem:
        raise EngineFailed(f"OpenVINO cannot open {path.name}: {reason(problem)}") from problem


def reason(problem: RuntimeError) -> str:
    """The library's own words without the list of its source files that they begin with."""
    lines = [line.strip() for line in str(problem).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Exception from "))


def _tensor_class() -> Any:
    import openvino

    return openvino.Tensor


def _texts(facts: Any) -> dict[str, str]:
    return {key: facts[key].astype(str) for key in facts}


def _readable(feeds: Tensors, spec: TensorSpec) -> Array:
    """Give the array in a form whose memory OpenVINO can read; it would cast another type in silence."""
    if spec.name not in feeds:
        raise InvalidInput(f"missing tensor '{spec.name}'; the engine was given {', '.join(feeds) or 'none'}.")
    array = feeds[spec.name]
    if array.dtype != spec.dtype.numpy:
        raise EngineFailed(f"OpenVINO failed: input '{spec.name}' is {array.dtype}, the model takes {spec.dtype.numpy}")
    flags = array.flags
    return array if flags.c_contiguous and flags.writeable else array.copy()


def _spec(port: Any, path: Path) -> TensorSpec:
    shape = tuple(size.get_length() if size.is_static else -1 for size in port.get_partial_shape())
    return TensorSpec(_name(port), _dtype(port.get_element_type().get_type_name(), path), shape)


def _name(port: Any) -> str:
    """The name in the file: any other name of the tensor would do for OpenVINO, not for who asks for an output."""
    name = str(port.get_node().get_friendly_name()).removesuffix(_RESULT_SUFFIX)
    return name if name in port.get_names() else str(port.get_any_name())


def _dtype(name: str, path: Path) -> DType:
    if name not in _BY_OPENVINO_NAME:
        raise InvalidInput(
            f"{path.name} has a tensor of OpenVINO's type {name}, which is not handed in or out here; "
            f"expected one of {', '.join(_BY_OPENVINO_NAME)}. Run this model with ONNX Runtime."
        )
    return DTYPES[_BY_OPENVINO_NAME[name]]
