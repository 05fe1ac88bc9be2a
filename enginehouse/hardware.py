"""What this machine is: recorded as evidence at build time, compared at load time."""

import os
import platform
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from enginehouse.cpu_quota import quota_cores
from enginehouse.nvidia import first_gpu

# What decides which integer and half-precision kernels a CPU library picks.
_DECISIVE_ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16")
_DECISIVE_ISA_ARM = ("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2")


class Hardware(BaseModel):
    """One machine, as far as it matters to an engine.

    Attributes:
        gpu: name of the first NVIDIA GPU; None without one, as are its compute capability and driver.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    gpu: str | None = None
    compute_capability: str | None = None
    driver: str | None = None

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ""
        return f"{self.cpu}, {self.cores} cores, {' '.join(self.isa) or self.architecture}{gpu}"


def this_hardware() -> Hardware:
    """Describe the machine that this process may use (its affinity mask counts, not the whole host)."""
    model, flags = _cpu_facts()
    isa = tuple(name for name in (*_DECISIVE_ISA, *_DECISIVE_ISA_ARM) if name in flags)
    gpu = first_gpu()
    return Hardware(
        cpu=model,
        architecture=platform.machine(),
        isa=isa,
        cores=usable_cores(),
        gpu=gpu.name if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        driver=gpu.driver if gpu else None,
    )


def usable_cores() -> int:
    """Count the cores that this process may keep busy: its affinity, within what its cgroup allows, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return cores if quota is None else max(1, min(cores, int(quota)))


def threads_per_instance(instance_count: int) -> int:
    """The thread policy of both programs: the usable cores, shared evenly by the instances of a model.

    The optimizer measures with the threads of one instance; a server that runs several gives each its share, so
    that instances never compete for a core. `intra_op_thread_count` in a model's `parameters` overrides it.
    """
    return max(1, usable_cores() // max(1, instance_count))


def _cpu_facts() -> tuple[str, frozenset[str]]:
    """Read the model name and feature flags; both stay modest where Linux does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts: dict[str, str] = {}
    for line in lines:
        key, separator, value = line.partition(":")
        if separator:
            facts.setdefault(key.strip(), value.strip())
    flags = facts.get("flags") or facts.get("Features") or ""
    return facts.get("model name") or platform.machine(), frozenset(flags.split())
