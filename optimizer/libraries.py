"""The libraries that have a hand in a build, and which versions of them are installed."""

from collections.abc import Sequence
from importlib import metadata

LIBRARIES = (
    "enginehouse", "ml-dtypes", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "onnxslim", "openvino",
    "tensorrt", "tensorrt-rtx",
)  # fmt: skip


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
