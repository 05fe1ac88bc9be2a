import pytest

from enginehouse.errors import InvalidInput
from enginehouse.hardware import Hardware, this_hardware
from optimizer import target as module
from optimizer.target import Target, target_from_name


def test_the_host_is_this_machine() -> None:
    found = target_from_name("host")
    assert found.is_host
    assert found.isa == this_hardware().isa


@pytest.mark.parametrize(
    ("name", "vnni", "arm"),
    [
        ("avx2", False, False),
        ("vnni", True, False),
        ("amx", True, False),
        ("arm64", False, True),
    ],
)
def test_a_cpu_has_what_its_name_says(name: str, vnni: bool, arm: bool) -> None:
    found = target_from_name(name)
    assert (found.has_vnni, found.is_arm) == (vnni, arm)
    assert not found.is_gpu
    assert not found.is_host


@pytest.mark.parametrize(("name", "capability"), [("sm_75", "7.5"), ("sm_90", "9.0"), ("sm_120", "12.0")])
def test_a_gpu_has_its_compute_capability(name: str, capability: str) -> None:
    found = target_from_name(name)
    assert found.is_gpu
    assert found.compute_capability == capability


def test_a_host_with_a_gpu_is_a_cpu_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Hardware(cpu="c", architecture="x86_64", isa=("avx2",), cores=1, gpu="g", compute_capability="8.9")
    monkeypatch.setattr(module, "this_hardware", lambda: machine)
    assert target_from_name("host") == Target("host", ("avx2",), "8.9", is_host=True)
    assert not target_from_name("host").is_gpu


def test_vnni_without_avx512_counts() -> None:
    assert Target("host", ("avx2", "avx_vnni"), None, is_host=True).has_vnni


@pytest.mark.parametrize("name", ["", "sm_70", "sm_", "neon", "HOST"])
def test_an_unknown_target_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"target is '{name}'; expected one of host, avx2, .*sm_121\."):
        target_from_name(name)


def test_a_gpu_that_is_here_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_hardware().model_copy(update={"compute_capability": "9.0"})
    monkeypatch.setattr(module, "this_hardware", lambda: here)
    assert target_from_name("sm_90").is_host
    assert target_from_name("sm_90").is_gpu
    assert not target_from_name("sm_89").is_host
