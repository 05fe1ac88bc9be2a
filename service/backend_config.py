"""`--backend-config`: how far models are batched that do not say it; what else means nothing here, or is refused."""

from collections.abc import Sequence

_SETTING = "default-max-batch-size"
# Of the memory through which Triton's Python backend hands tensors; here it is as large as the tensors are.
_MEANINGLESS = ("python,shm-default-byte-size", "python,shm-growth-byte-size", "python,shm-region-prefix-name")
_BACKENDS = ("", "onnxruntime", "openvino", "tensorrt")


def max_batch_sizes_from_flags(flags: Sequence[str]) -> dict[str, int]:
    """Read `[BACKEND,]default-max-batch-size=N`; the answer is by backend, the empty name is for all others.

    Raises:
        ValueError: another setting, an unknown backend, or no number.
    """
    sizes: dict[str, int] = {}
    for flag in flags:
        where, equals, text = flag.partition("=")
        if where in _MEANINGLESS:
            continue
        backend, comma, setting = where.rpartition(",")
        if setting != _SETTING or not equals or backend not in _BACKENDS or (comma and not backend):
            raise ValueError(
                f"'{flag}' is not honoured; expected {_SETTING}=N, with a backend and a comma before it "
                f"({', '.join(_BACKENDS[1:])}) or without"
            )
        if not text.isdecimal() or int(text) >= 1 << 31:
            raise ValueError(f"'{flag}' needs a number of 0 or more")
        sizes[backend] = int(text)
    return sizes
