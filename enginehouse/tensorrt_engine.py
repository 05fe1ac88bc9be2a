"""The door to TensorRT plans. Opening one needs an NVIDIA GPU; this version does not run them yet."""

from pathlib import Path

from enginehouse.errors import MissingExtra, NotSupported


class TensorRTEngine:
    """A serialized TensorRT plan.

    Raises:
        MissingExtra: TensorRT is not installed.
        NotSupported: TensorRT is there, but this version cannot run plans.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:  # noqa: ARG002 - every door has the same signature
        try:
            import tensorrt  # noqa: F401
        except ImportError as problem:
            raise MissingExtra("tensorrt", "tensorrt", f"running the plan {path.name}") from problem
        raise NotSupported(
            f"{path.name} is a TensorRT plan, which this version does not run yet. Publish an ONNX engine beside it."
        )
