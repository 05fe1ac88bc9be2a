"""The door to ONNX Runtime, with all its execution providers."""

import ctypes
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from enginehouse.dtype import DTYPES, Array, dtype_from_ort
from enginehouse.engine_options import SessionOptions
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra, NotSupported
from enginehouse.tensor import Tensors, TensorSpec

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
_EXTRA_OF_PROVIDER = {CPU_PROVIDER: "cpu", CUDA_PROVIDER: "gpu", TENSORRT_PROVIDER: "gpu"}
# By the numbers of a model's configuration.
_GRAPH_LEVELS = {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
_BF16 = DTYPES["BF16"]

OPTIMIZED_FILE = "optimized.onnx"


class OnnxRuntimeEngine:
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: the ONNX file; external data lies beside it.
        threads: threads inside one operator. They do not spin between runs: a server has other work for the core.
        provider: the one execution provider that must be used; CPU may take what it leaves over.
        provider_options: passed through to the provider.
        optimize: let ONNX Runtime rewrite the graph as it loads; without, it computes the graph as it is written.
        wanted: what the model's configuration asks of the session.
        profile_into: a folder for what ONNX Runtime tells of itself: the graph that it made of this one
            (`OPTIMIZED_FILE`), and after `end_profile` the times of its nodes.

    Raises:
        MissingExtra: ONNX Runtime is not installed.
        NotSupported: the CPU and the GPU package of ONNX Runtime are both installed; the provider is not in this build
            of it, or was silently not used; or the model has both BF16 tensors and BYTES inputs.
        EngineFailed: ONNX Runtime cannot open the file.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        provider: str = CPU_PROVIDER,
        provider_options: Mapping[str, str] | None = None,
        optimize: bool = True,
        profile_into: Path | None = None,
        wanted: SessionOptions | None = None,
    ) -> None:
        onnxruntime = _import_library(path, provider)
        options = _session_options(onnxruntime, threads, optimize, wanted or SessionOptions())
        if profile_into is not None:
            _profile(options, profile_into)
        chosen = (provider, dict(provider_options or {}))
        self._session: Any = _open_session(onnxruntime, path, options, chosen)
        self._run_options = _run_options(onnxruntime, wanted.run_entries) if wanted and wanted.run_entries else None
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        # In its graph they have a value already, which a feed may replace.
        self.optional_inputs = tuple(_spec(node) for node in self._session.get_overridable_initializers())
        every = (*self.inputs, *self.optional_inputs)
        self._output_names = [spec.name for spec in self.outputs]
        self._has_bf16 = any(spec.dtype is _BF16 for spec in (*every, *self.outputs))
        self._string_inputs = [spec.name for spec in every if not spec.dtype.size_bytes]
        if self._has_bf16 and self._string_inputs:
            raise NotSupported(
                f"{path.name} has BF16 tensors and BYTES inputs; ONNX Runtime takes one or the other here."
            )

    def run(self, feeds: Tensors) -> Tensors:
        """Compute every output; BYTES elements may be `str` or UTF-8 `bytes`."""
        session = self._session
        if session is None:
            raise EngineFailed("the engine is closed.")
        for spec in self.inputs:
            if spec.name not in feeds:
                raise InvalidInput(f"missing tensor '{spec.name}'; the engine was given {', '.join(feeds) or 'none'}.")
        if self._string_inputs:
            texts = {name: _text_array(name, feeds[name]) for name in self._string_inputs if name in feeds}
            feeds = {**feeds, **texts}
        try:
            if self._has_bf16:
                return self._run_with_bf16(session, feeds)
            return dict(zip(self._output_names, session.run(self._output_names, feeds, self._run_options), strict=True))
        except (RuntimeError, ValueError, TypeError) as problem:
            raise EngineFailed(f"ONNX Runtime failed: {problem}") from problem
        except Exception as problem:
            # The library's own exceptions have no common base below Exception.
            if not type(problem).__module__.startswith("onnxruntime"):
                raise
            raise EngineFailed(f"ONNX Runtime failed: {problem}") from problem

    def close(self) -> None:
        """Drop the session; ONNX Runtime frees its memory with it."""
        self._session = None

    def end_profile(self) -> Path:
        """Stop profiling and name the file of the times; only for an engine with `profile_into`."""
        return Path(self._session.end_profiling())

    def _run_with_bf16(self, session: Any, feeds: Tensors) -> Tensors:
        """Run through `OrtValue`, because the array interface of ONNX Runtime has no BF16."""
        given = [spec for spec in (*self.inputs, *self.optional_inputs) if spec.name in feeds]
        values = {spec.name: _ort_value(feeds[spec.name], spec) for spec in given}
        outputs = session.run_with_ort_values(self._output_names, values, self._run_options)
        return {
            spec.name: _bf16_from_ort_value(value) if spec.dtype is _BF16 else value.numpy()
            for spec, value in zip(self.outputs, outputs, strict=True)
        }


def check_one_distribution() -> None:
    """Refuse a broken installation: the CPU and the GPU package share one module and overwrite each other.

    Raises:
        NotSupported: both are installed.
    """
    installed = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if len(installed) == 2:
        raise NotSupported(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. "
            "Uninstall both, then install the extra for this machine: enginehouse[cpu] or enginehouse[gpu]."
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _import_library(path: Path, provider: str) -> Any:
    extra = _EXTRA_OF_PROVIDER.get(provider, "cpu")
    if "onnxruntime" not in sys.modules:
        check_one_distribution()
    # Its wheels report use to their maker unless told not to; a server tells nobody what it runs.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as problem:
        raise MissingExtra("onnxruntime", extra, f"running {path.name}") from problem
    if provider not in onnxruntime.get_available_providers():
        found = ", ".join(onnxruntime.get_available_providers())
        raise NotSupported(
            f"execution provider {provider} is not in the installed ONNX Runtime, which has {found}. "
            f'Install the extra that brings it: pip install "enginehouse[{extra}]".'
        )
    return onnxruntime


def _session_options(onnxruntime: Any, threads: int, optimize: bool, wanted: SessionOptions) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = wanted.inter_op_threads
    if wanted.is_parallel:
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.log_severity_level = 4  # what it would log is in the exception
    level = _GRAPH_LEVELS[wanted.graph_level] if optimize else "ORT_DISABLE_ALL"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if wanted.memory_arena is not None:
        options.enable_cpu_mem_arena = wanted.memory_arena
    if wanted.memory_pattern is not None:
        options.enable_mem_pattern = wanted.memory_pattern
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0", **wanted.session_entries}
    for key, text in entries.items():
        options.add_session_config_entry(key, text)
    return options


def _profile(options: Any, folder: Path) -> None:
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / OPTIMIZED_FILE)
    # Weights beside it, because one file may not grow beyond 2 GB.
    entry = "session.optimized_model_external_initializers_file_name"
    options.add_session_config_entry(entry, f"{OPTIMIZED_FILE}.data")


def _run_options(onnxruntime: Any, entries: Mapping[str, str]) -> Any:
    options = onnxruntime.RunOptions()
    for key, text in entries.items():
        options.add_run_config_entry(key, text)
    return options


def _open_session(onnxruntime: Any, path: Path, options: Any, provider: tuple[str, dict[str, str]]) -> Any:
    # What TensorRT leaves over stays on the GPU.
    providers = [provider, CUDA_PROVIDER] if provider[0] == TENSORRT_PROVIDER else [provider]
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as problem:
        raise EngineFailed(f"ONNX Runtime cannot open {path.name}: {problem}") from problem
    if provider[0] not in session.get_providers():
        raise NotSupported(
            f"execution provider {provider[0]} was asked for and ONNX Runtime silently used "
            f"{', '.join(session.get_providers())} instead. Its driver or libraries are missing on this machine."
        )
    return session


def _spec(node: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, dtype_from_ort(node.type), shape)


def _text_array(name: str, array: Array) -> Array:
    """Make every element a `str`: ONNX Runtime would serve `bytes` as their Python notation."""
    try:
        items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.ravel().tolist()]
    except UnicodeDecodeError as problem:
        raise InvalidInput(f"input '{name}' holds bytes that are not UTF-8: {problem}.") from problem
    text = np.empty(len(items), dtype=object)
    text[:] = items
    return text.reshape(array.shape)


def _ort_value(array: Array, spec: TensorSpec) -> Any:
    import onnxruntime

    if spec.dtype is _BF16:
        bits = _contiguous(array).view(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BF16.onnx_code)
    return onnxruntime.OrtValue.ortvalue_from_numpy(_contiguous(array))


def _contiguous(array: Array) -> Array:
    """NumPy's own function makes a scalar a vector on the way."""
    return np.ascontiguousarray(array).reshape(array.shape)


def _bf16_from_ort_value(value: Any) -> Array:
    count = int(np.prod(value.shape(), dtype=np.int64))
    data = ctypes.string_at(value.data_ptr(), 2 * count) if count else b""
    return np.frombuffer(data, dtype=_BF16.numpy).reshape(value.shape())
