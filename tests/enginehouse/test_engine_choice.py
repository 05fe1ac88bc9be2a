"""The best engine that is valid on a machine, and a reason for each other one."""

from collections.abc import Mapping
from typing import Any

import pytest

from enginehouse.engine_choice import DISTRIBUTIONS, Choice, choose_engine, installed_version, rank_engines
from enginehouse.errors import NotSupported
from enginehouse.evidence import EngineRecord, Evidence, TargetRecord
from enginehouse.hardware import Hardware
from enginehouse.open_engine import ENGINES
from tests.enginehouse.conftest import make_evidence, make_record

CPU = Hardware(cpu="new", architecture="x86_64", isa=("avx2", "avx512_vnni", "amx_bf16"), cores=4)
OLD_CPU = Hardware(cpu="old", architecture="x86_64", isa=("avx2",), cores=4)
ADA = CPU.model_copy(update={"gpu": "Ada", "compute_capability": "8.9"})
AMPERE = CPU.model_copy(update={"gpu": "Ampere", "compute_capability": "8.6"})
ALL = {"onnxruntime": "1.31.1", "openvino": "2026.4.1", "tensorrt-rtx": "1.7.1.116"}

INT8 = make_record(
    candidate="int8", precision="int8", speedup=2.0, target=TargetRecord(isa=("avx512_vnni",), libraries={})
)
OPENVINO = make_record(
    "model.openvino.onnx", "variant", candidate="openvino bf16", platform="openvino", speedup=4.0,
    target=TargetRecord(isa=("amx_bf16",)), settings={"INFERENCE_PRECISION_HINT": "bf16"},
)  # fmt: skip
PLAN = make_record(
    "model.sm89.plan", "variant", candidate="rtx fp16", platform="tensorrt_plan", speedup=9.0,
    target=TargetRecord(compute_capability="8.9", libraries={"tensorrt-rtx": "1.7.1"}),
)  # fmt: skip
FALLBACK = make_record("fallback.onnx", "fallback", candidate="fp32", speedup=1.3)


def evidence(*engines: EngineRecord, hardware: Hardware = ADA, **fields: Any) -> Evidence:
    return make_evidence({}, engines=engines or (INT8, OPENVINO, PLAN, FALLBACK), hardware=hardware, **fields)


def chosen(
    found: Evidence, hardware: Hardware, installed: Mapping[str, str] = ALL, on_gpu: bool | None = None
) -> Choice:
    return choose_engine(found, hardware, installed.get, on_gpu)


def why(choice: Choice, file: str) -> str:
    return next(one.reason for one in choice.passed_over if one.file == file)


def order(found: Evidence, hardware: Hardware, **options: Any) -> list[str]:
    return [record.file for record in rank_engines(found, hardware, ALL.get, **options).valid]


def test_the_fastest_that_is_valid_serves_and_the_fallback_comes_last() -> None:
    assert order(evidence(), ADA) == ["model.sm89.plan", "model.openvino.onnx", "model.onnx", "fallback.onnx"]
    choice = chosen(evidence(), ADA)
    assert choice.record is PLAN
    assert why(choice, "model.onnx") == "model.sm89.plan is faster: 9.00x the source's speed against 2.00x"
    assert why(choice, "fallback.onnx") == "it serves when no other engine can"
    assert all(one.can_run for one in choice.passed_over)


@pytest.mark.parametrize(
    ("hardware", "installed", "file", "reason"),
    [
        (CPU, ALL, "model.sm89.plan", "it needs a GPU of compute capability 8.9, and this machine has none"),
        (AMPERE, ALL, "model.sm89.plan", "it was built for compute capability 8.9, and this GPU has 8.6"),
        (OLD_CPU, ALL, "model.onnx", "it was built for a CPU with avx512_vnni, which this one does not have"),
        (OLD_CPU, ALL, "model.openvino.onnx", "it was built for a CPU with amx_bf16, which this one does not have"),
        (ADA, {"onnxruntime": "1"}, "model.openvino.onnx", "openvino is not installed"),
        (ADA, {"onnxruntime": "1"}, "model.sm89.plan", "tensorrt-rtx is not installed"),
        (
            ADA, {**ALL, "tensorrt-rtx": "1.8.0.1"}, "model.sm89.plan",
            "it needs tensorrt-rtx 1.7.1, and 1.8.0.1 is installed",
        ),
        (
            ADA, {**ALL, "tensorrt-rtx": "1.7.10"}, "model.sm89.plan",
            "it needs tensorrt-rtx 1.7.1, and 1.7.10 is installed",
        ),
    ],
)  # fmt: skip
def test_an_engine_that_cannot_run_here_is_passed_over_with_the_reason(
    hardware: Hardware, installed: Mapping[str, str], file: str, reason: str
) -> None:
    choice = chosen(evidence(), hardware, installed)
    assert choice.record.file != file
    assert why(choice, file) == reason
    assert not next(one.can_run for one in choice.passed_over if one.file == file)


def test_where_nothing_else_is_valid_the_fallback_serves() -> None:
    assert chosen(evidence(), OLD_CPU).record is FALLBACK


def test_where_nothing_is_valid_every_reason_is_named() -> None:
    with pytest.raises(NotSupported, match=r"no engine of m version 1 can run here: model\.onnx: onnxruntime or onnx"):
        chosen(evidence(), CPU, {})


def test_either_distribution_of_onnx_runtime_will_do() -> None:
    assert chosen(evidence(), CPU, {"onnxruntime-gpu": "1.31.1"}).record is INT8


def test_an_engine_of_another_release_is_passed_over_by_its_platform() -> None:
    odd = INT8.model_copy(update={"file": "model.odd", "platform": "odd"})
    assert why(chosen(evidence(odd, FALLBACK), CPU), "model.odd").startswith("platform 'odd' is unknown; expected one")


@pytest.mark.parametrize(("have", "wanted"), [("avx_vnni", "avx512_vnni"), ("avx512_vnni", "avx_vnni")])
def test_vnni_counts_under_either_of_its_names(have: str, wanted: str) -> None:
    hardware = CPU.model_copy(update={"isa": ("avx2", have)})
    record = INT8.model_copy(update={"target": TargetRecord(isa=(wanted,))})
    assert chosen(evidence(record, FALLBACK), hardware).record is record


def test_what_was_measured_on_a_machine_of_this_kind_comes_before_what_was_not() -> None:
    for_elsewhere = OPENVINO.model_copy(update={"target": TargetRecord(name="amx", is_measured=False)})
    unmeasured = OPENVINO.model_copy(update={"speedup": None, "target": TargetRecord()})
    for record in (for_elsewhere, unmeasured):
        choice = chosen(evidence(INT8, record, FALLBACK), ADA)
        assert choice.record is INT8
        assert why(choice, record.file) == "it was not measured on a machine of this kind, and model.onnx was"


def test_on_a_machine_of_another_kind_figures_from_elsewhere_are_the_best_guess() -> None:
    other = CPU.model_copy(update={"isa": (*CPU.isa, "avx512_fp16")})
    assert order(evidence(INT8, OPENVINO, FALLBACK), other) == ["model.openvino.onnx", "model.onnx", "fallback.onnx"]


def test_on_another_gpu_of_the_same_capability_a_plan_counts_as_measured_whatever_the_cpu() -> None:
    hardware = OLD_CPU.model_copy(update={"compute_capability": "8.9"})
    assert chosen(evidence(), hardware).record is PLAN


@pytest.mark.parametrize(("speed", "file"), [(2.05, "model.onnx"), (2.2, "model.openvino.onnx")])
def test_what_the_build_chose_wins_against_what_is_as_fast_within_5_percent(speed: float, file: str) -> None:
    rival = OPENVINO.model_copy(update={"speedup": speed})
    choice = chosen(
        evidence(INT8, rival, FALLBACK, chosen="int8"), CPU.model_copy(update={"compute_capability": "8.9"})
    )
    assert choice.record.file == file
    if file == "model.onnx":
        assert why(choice, "model.openvino.onnx") == "the build chose model.onnx"


@pytest.mark.parametrize("objective", ["size", "memory"])
def test_a_model_that_was_made_small_is_not_swapped_for_a_faster_large_one(objective: str) -> None:
    assert chosen(evidence(chosen="int8", recipe={"objective": objective}), ADA).record is INT8
    assert chosen(evidence(chosen="int8", recipe={"objective": "latency"}), ADA).record is PLAN


def test_instances_on_the_cpu_or_on_the_gpu_take_what_runs_there() -> None:
    on_cpu = chosen(evidence(), ADA, on_gpu=False)
    assert on_cpu.record is OPENVINO
    assert why(on_cpu, "model.sm89.plan") == "it runs on a GPU, and the instances are on the CPU"
    on_gpu = chosen(evidence(INT8, OPENVINO, FALLBACK), ADA, on_gpu=True)
    assert on_gpu.record is INT8
    assert why(on_gpu, "model.openvino.onnx") == "it runs on the CPU, and the instances are on a GPU"


ASKED_FOR = PLAN.model_copy(
    update={
        "speedup": None,
        "target": TargetRecord(name="sm_89", compute_capability="8.9", is_measured=False),
    }
)


def test_a_plan_that_the_build_was_asked_for_serves_on_its_gpu_although_nobody_measured_it() -> None:
    found = evidence(INT8, ASKED_FOR, FALLBACK, hardware=CPU, chosen="rtx fp16")
    choice = chosen(found, ADA)
    assert choice.record is ASKED_FOR
    assert why(choice, "model.onnx") == "the build chose model.sm89.plan"
    assert chosen(found, AMPERE).record is INT8


def test_a_plan_that_came_along_serves_on_its_gpu_unless_another_engine_was_measured_there() -> None:
    found = evidence(INT8, ASKED_FOR, FALLBACK, hardware=CPU, chosen="int8")
    assert chosen(found, ADA).record is INT8
    elsewhere = ADA.model_copy(update={"isa": (*ADA.isa, "avx512_fp16")})
    choice = chosen(found, elsewhere)
    assert choice.record is ASKED_FOR
    assert why(choice, "model.onnx") == "model.sm89.plan was built for the GPU"
    assert chosen(found, ADA, on_gpu=True).record is ASKED_FOR


@pytest.mark.parametrize("recipe", [{"engine": "openvino"}, {"precision": "bf16"}])
@pytest.mark.parametrize("hardware", [CPU, ADA])
def test_what_was_asked_for_by_name_is_not_swapped_for_a_faster_engine(
    recipe: dict[str, str], hardware: Hardware
) -> None:
    fp32 = make_record(candidate="fp32", speedup=6.0)
    slower = OPENVINO.model_copy(update={"speedup": 0.98})
    auto = {"engine": "auto", "precision": "auto"}
    found = evidence(fp32, slower, FALLBACK, hardware=CPU, chosen="openvino bf16", recipe={**auto, **recipe})
    choice = chosen(found, hardware)
    assert choice.record is slower
    assert why(choice, "model.onnx") == "the build chose model.openvino.onnx"
    assert chosen(found, hardware, {"onnxruntime": "1"}).record is fp32
    assert chosen(found.model_copy(update={"recipe": auto}), hardware).record is fp32


@pytest.mark.parametrize(
    ("target", "architecture", "can_run"),
    [
        ("arm64", "x86_64", False),
        ("arm64", "aarch64", True),
        ("arm64", "arm64", True),
        ("avx2", "aarch64", False),
        ("vnni", "aarch64", False),
        ("amx", "arm64", False),
        ("avx2", "x86_64", True),
        ("host", "aarch64", True),
        ("host", "x86_64", True),
    ],
)
def test_an_engine_for_another_architecture_is_passed_over(target: str, architecture: str, can_run: bool) -> None:
    hardware = CPU.model_copy(update={"architecture": architecture})
    record = INT8.model_copy(update={"target": TargetRecord(name=target, is_measured=False)})
    choice = chosen(evidence(record, FALLBACK, chosen="int8"), hardware)
    assert choice.record is (record if can_run else FALLBACK)
    if not can_run:
        assert why(choice, record.file) == f"it was built for {target}, and this machine is {architecture}"


def test_an_execution_provider_for_gpus_needs_one() -> None:
    record = make_record("model.cuda.onnx", "variant", provider="CUDAExecutionProvider", speedup=3.0)
    assert (
        why(chosen(evidence(INT8, record, FALLBACK), CPU), record.file) == "it needs a GPU, and this machine has none"
    )
    assert chosen(evidence(INT8, record, FALLBACK), ADA).record is record


def test_every_platform_has_a_library_and_what_is_installed_is_found() -> None:
    assert set(DISTRIBUTIONS) == set(ENGINES)
    assert installed_version("onnxruntime")
    assert installed_version("no-such-distribution") is None
