"""Which engine of a version serves on this machine, and why each other one does not.

An engine is valid where its library is installed, the CPU has the instruction sets and the GPU the compute capability
that it was built for. First comes what the build was told to make, by name or for such a machine, then what was
measured on one, the fastest first, then the rest by figures from elsewhere; what runs anywhere comes last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata

from enginehouse.errors import NotSupported
from enginehouse.evidence import EngineRecord, Evidence
from enginehouse.hardware import Hardware

# Any one of them brings the module that opens the platform's files.
DISTRIBUTIONS = {
    "onnxruntime_onnx": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt_plan": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx"),
}
_CPU_PROVIDER = "CPUExecutionProvider"

# One instruction under two names: processors have it for long vectors or for short ones.
_SAME_ISA = {"avx512_vnni": "avx_vnni", "avx_vnni": "avx512_vnni"}

# The architecture of a target's CPU, under every name that an operating system has for it.
_X86, _ARM = ("x86_64", "AMD64", "amd64"), ("aarch64", "arm64", "ARM64")
_ARCHITECTURES = {"avx2": _X86, "vnni": _X86, "amx": _X86, "arm64": _ARM}

# Within 5 % the build may have preferred an engine for being nearer to the original; the choice is not taken twice.
_AS_FAST = 1.05
_NOT_FOR_SPEED = ("size", "memory")

# The installed version of a distribution, or None.
InstalledVersion = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An engine that does not serve here, and why; `can_run` where it is only not the best."""

    file: str
    reason: str
    can_run: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that serves here, and why each other one does not."""

    record: EngineRecord
    passed_over: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The engines that can run here, best first, and why the others cannot."""

    valid: tuple[EngineRecord, ...]
    invalid: tuple[PassedOver, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where engines are compared: what was found out about them, and the machine."""

    evidence: Evidence
    hardware: Hardware
    on_gpu: bool | None


def installed_version(distribution: str) -> str | None:
    """Look up what is installed in this environment."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def choose_engine(
    evidence: Evidence,
    hardware: Hardware,
    installed: InstalledVersion = installed_version,
    on_gpu: bool | None = None,
) -> Choice:
    """Take the best engine that is valid here; the arguments are those of `rank_engines`.

    Raises:
        NotSupported: none is; every reason is named.
    """
    ranking = rank_engines(evidence, hardware, installed, on_gpu)
    if not ranking.valid:
        raise NotSupported(
            f"no engine of {evidence.model} version {evidence.version} can run here: {reasons(ranking.invalid)}. "
            "Install a library that one of them needs, or build the version for this machine."
        )
    best, *others = ranking.valid
    place = _Place(evidence, hardware, on_gpu)
    beaten = tuple(PassedOver(record.file, _why_behind(record, best, place), can_run=True) for record in others)
    return Choice(best, beaten + ranking.invalid)


def rank_engines(
    evidence: Evidence,
    hardware: Hardware,
    installed: InstalledVersion = installed_version,
    on_gpu: bool | None = None,
) -> Ranking:
    """Sort a version's engines by what they are worth on a machine.

    Args:
        evidence: of the version.
        hardware: the machine.
        installed: tells the version of a distribution.
        on_gpu: whether it must run on a GPU or must not; None leaves it open.
    """
    problems = {record.file: _problem(record, hardware, installed, on_gpu) for record in evidence.engines}
    valid = [record for record in evidence.engines if not problems[record.file]]
    invalid = (PassedOver(file, problem) for file, problem in problems.items() if problem)
    place = _Place(evidence, hardware, on_gpu)
    return Ranking(tuple(sorted(valid, key=lambda record: _rank(record, place))), tuple(invalid))


def needs_gpu(record: EngineRecord) -> bool:
    """Whether an engine runs on a GPU only."""
    return (
        record.platform == "tensorrt_plan"
        or record.target.compute_capability is not None
        or record.provider not in ("", _CPU_PROVIDER)
    )


def reasons(passed_over: Sequence[PassedOver]) -> str:
    return "; ".join(f"{one.file}: {one.reason}" for one in passed_over)


def _problem(record: EngineRecord, hardware: Hardware, installed: InstalledVersion, on_gpu: bool | None) -> str:
    """Say why an engine cannot run here; empty if it can, as far as can be told without opening it."""
    if on_gpu is False and needs_gpu(record):
        return "it runs on a GPU, and the instances are on the CPU"
    if on_gpu and record.platform == "openvino":
        return "it runs on the CPU, and the instances are on a GPU"
    return _library_problem(record, installed) or _machine_problem(record, hardware)


def _library_problem(record: EngineRecord, installed: InstalledVersion) -> str:
    for name, wanted in record.target.libraries.items():
        found = installed(name)
        if found is None:
            return f"{name} is not installed"
        if found != wanted and not found.startswith(f"{wanted}."):
            return f"it needs {name} {wanted}, and {found} is installed"
    names = DISTRIBUTIONS.get(record.platform, ())
    if not names:
        return f"platform '{record.platform}' is unknown; expected one of {', '.join(DISTRIBUTIONS)}"
    if any(installed(name) for name in (*record.target.libraries, *names)):
        return ""
    return f"{' or '.join(names)} is not installed"


def _machine_problem(record: EngineRecord, hardware: Hardware) -> str:
    architectures = _ARCHITECTURES.get(record.target.name)
    if architectures is not None and record.role != "fallback" and hardware.architecture not in architectures:
        return f"it was built for {record.target.name}, and this machine is {hardware.architecture}"
    have = {*hardware.isa, *(_SAME_ISA[name] for name in hardware.isa if name in _SAME_ISA)}
    missing = [name for name in record.target.isa if name not in have]
    if missing:
        return f"it was built for a CPU with {', '.join(missing)}, which this one does not have"
    if not needs_gpu(record):
        return ""
    wanted, found = record.target.compute_capability, hardware.compute_capability
    if found is None:
        return f"it needs a GPU{f' of compute capability {wanted}' if wanted else ''}, and this machine has none"
    if wanted not in (None, found):
        return f"it was built for compute capability {wanted}, and this GPU has {found}"
    return ""


def _rank(record: EngineRecord, place: _Place) -> tuple[bool, bool, bool, bool, float, bool]:
    return (
        record.role == "fallback",
        not _is_asked_for(record, place),
        not _is_measured(record, place),
        not needs_gpu(record) and bool(place.hardware.compute_capability) and not _is_measured(record, place),
        -_worth(record, place),
        record.role != "chosen",
    )


def _is_asked_for(record: EngineRecord, place: _Place) -> bool:
    """Whether the build was told to make it: by its engine or precision, or for another machine, and this is one."""
    if record.candidate != place.evidence.chosen:
        return False
    recipe = place.evidence.recipe
    return record.target.name != "host" or any(recipe.get(name, "auto") != "auto" for name in ("engine", "precision"))


def _is_measured(record: EngineRecord, place: _Place) -> bool:
    """Whether the speed-up was seen on a machine of this kind."""
    if record.speedup is None or not record.target.is_measured or (place.on_gpu and not needs_gpu(record)):
        return False
    built_on, hardware = place.evidence.hardware, place.hardware
    if needs_gpu(record):
        return built_on.compute_capability == hardware.compute_capability
    return (built_on.architecture, set(built_on.isa)) == (hardware.architecture, set(hardware.isa))


def _worth(record: EngineRecord, place: _Place) -> float:
    """The speed-up, in favour of what the build chose: it may be nearer to the original, or small on purpose."""
    if record.candidate != place.evidence.chosen:
        return record.speedup or 0.0
    is_small_on_purpose = place.evidence.recipe.get("objective") in _NOT_FOR_SPEED
    if is_small_on_purpose or _is_asked_for(record, place):
        return float("inf")
    return _AS_FAST * (record.speedup or 0.0)


def _why_behind(record: EngineRecord, best: EngineRecord, place: _Place) -> str:
    if record.role == "fallback":
        return "it serves when no other engine can"
    if _is_asked_for(best, place) and not _is_asked_for(record, place):
        return f"the build chose {best.file}"
    if not _is_measured(record, place):
        if _is_measured(best, place):
            return f"it was not measured on a machine of this kind, and {best.file} was"
        if needs_gpu(best) and not needs_gpu(record):
            return f"{best.file} was built for the GPU"
    if record.speedup is None or best.speedup is None or record.speedup > best.speedup:
        return f"the build chose {best.file}"
    return f"{best.file} is faster: {best.speedup:.2f}x the source's speed against {record.speedup:.2f}x"
