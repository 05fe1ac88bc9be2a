"""The machine that an engine is built for: this one, or one that `--target` names."""

from dataclasses import dataclass

from enginehouse.errors import InvalidInput
from enginehouse.hardware import this_hardware

_VNNI = ("avx2", "avx512f", "avx512_vnni")
_CPUS: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "vnni": _VNNI,
    "amx": (*_VNNI, "avx512_bf16", "amx_int8", "amx_bf16"),
    "arm64": ("asimd",),
}
# Compute capabilities of NVIDIA GPUs since Turing, written as the compilers write them.
_GPUS = ("75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121")
TARGET_NAMES = ("host", *_CPUS, *(f"sm_{number}" for number in _GPUS))


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine may count on.

    Attributes:
        name: `host`, or as `--target` said.
        isa: the decisive instruction sets, as `enginehouse/hardware.py` names them.
        compute_capability: of the GPU, such as `8.9`; None without one.
        is_host: whether it is this machine, so that engines can be measured here.
    """

    name: str
    isa: tuple[str, ...]
    compute_capability: str | None
    is_host: bool

    @property
    def has_vnni(self) -> bool:
        """Whether products of bytes are summed in 32 bits; without it x86 sums pairs in 16 bits, which saturate."""
        return bool({"avx512_vnni", "avx_vnni", "amx_int8"} & set(self.isa))

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU was asked for; `host` is a CPU, also where there is a GPU."""
        return self.name.startswith("sm_")

    @property
    def is_arm(self) -> bool:
        return "asimd" in self.isa


def target_from_name(name: str) -> Target:
    """Look up a target; `host` describes this machine.

    Raises:
        InvalidInput: no such target.
    """
    if name == "host":
        hardware = this_hardware()
        return Target(name, hardware.isa, hardware.compute_capability, is_host=True)
    if name in _CPUS:
        return Target(name, _CPUS[name], None, is_host=False)
    if name in TARGET_NAMES:
        digits = name.removeprefix("sm_")
        capability = f"{digits[:-1]}.{digits[-1]}"
        return Target(name, (), capability, is_host=capability == this_hardware().compute_capability)
    raise InvalidInput(f"target is '{name}'; expected one of {', '.join(TARGET_NAMES)}.")
