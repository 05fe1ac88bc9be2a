"""What this machine says about itself, and how its cores are shared out."""

import os
from pathlib import Path
from typing import Any

import pytest

from enginehouse import hardware
from enginehouse.hardware import Hardware, this_hardware, threads_per_instance, usable_cores
from enginehouse.nvidia import Gpu

X86 = "processor: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu sse avx2 avx512f amx_int8\n\nmodel name: another\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.mark.parametrize(
    ("text", "cpu", "isa"),
    [(X86, "Some CPU @ 2 GHz", ("avx2", "avx512f", "amx_int8")), (ARM, "", ("asimd", "asimddp", "i8mm")), ("", "", ())],
)
def test_the_decisive_instructions_are_read_in_a_fixed_order(
    monkeypatch: pytest.MonkeyPatch, text: str, cpu: str, isa: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 3)
    monkeypatch.setattr(hardware, "first_gpu", lambda: None)
    found = this_hardware()
    assert found.isa == isa
    assert found.cpu == (cpu or os.uname().machine)
    assert str(found) == f"{found.cpu}, 3 cores, {' '.join(isa) or found.architecture}"
    assert Hardware.model_validate_json(found.model_dump_json()) == found


def test_the_gpu_is_described_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "first_gpu", lambda: Gpu("Some GPU", "8.9", "580.1"))
    found = this_hardware()
    assert (found.gpu, found.compute_capability, found.driver) == ("Some GPU", "8.9", "580.1")
    assert str(found).endswith(", Some GPU")
    monkeypatch.setattr(hardware, "first_gpu", lambda: None)
    found = this_hardware()
    assert (found.gpu, found.compute_capability, found.driver) == (None, None, None)


def test_a_machine_that_does_not_tell_is_described_modestly(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> str:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refuse)
    found = this_hardware()
    assert found.cpu
    assert found.isa == ()


def test_the_affinity_of_the_process_counts_not_the_whole_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "quota_cores", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(("instances", "threads"), [(0, 8), (1, 8), (3, 2), (8, 1), (100, 1)])
def test_instances_share_the_cores_evenly(monkeypatch: pytest.MonkeyPatch, instances: int, threads: int) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    assert threads_per_instance(instances) == threads
