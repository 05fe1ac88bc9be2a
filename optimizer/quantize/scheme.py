"""Which arrangement of eight-bit integers suits which engine on which machine.

ONNX Runtime's x86 kernels want U8 activations and S8 weights, and without VNNI they add pairs of products in 16 bits,
which saturate unless the weights keep to seven bits. Its ARM64 kernels take both arrangements and never saturate.
TensorRT takes nothing but symmetric S8.
"""

from optimizer.target import Target
from optimizer.trial import EngineName, Scheme


def schemes_for(engine: EngineName, target: Target) -> tuple[Scheme, ...]:
    """The arrangements that are worth a trial, the most promising first."""
    if engine in ("tensorrt", "tensorrt-rtx"):
        return ("s8s8",)
    if engine == "openvino":
        return ("u8s8", "s8s8")
    if target.is_arm:
        return ("u8s8", "s8s8")
    return ("u8s8",) if target.has_vnni else ("u8s7",)
