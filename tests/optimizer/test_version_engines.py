"""Which engines a build leaves in a version, and what is said of each."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from enginehouse.errors import VerifyFailed
from enginehouse.evidence import EngineRecord
from enginehouse.hardware import this_hardware
from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from tests.conftest import DIGITS


def built(repository: Path, **options: Any) -> Published:
    fixed = {
        "model": DIGITS / "digits.onnx",
        "name": "digits",
        "repository": repository,
        "data": str(DIGITS / "digits.npz"),
        "benchmark_seconds": 0.02,
    }
    return build(recipe_from_options(**{**fixed, **options}), Steps(Console(file=io.StringIO())))


def engines(published: Published) -> dict[str, EngineRecord]:
    return {record.file: record for record in published.evidence.engines}


def test_an_engine_of_another_library_lies_beside_one_that_runs_anywhere(tmp_path: Path) -> None:
    published = built(tmp_path, engine="openvino", precision="int8", objective="size", max_drop="5%")
    found = engines(published)
    variant = found["model.openvino.onnx"]
    assert (variant.role, variant.platform, variant.precision) == ("variant", "openvino", "int8")
    assert variant.settings["INFERENCE_PRECISION_HINT"] in ("f32", "bf16")
    assert variant.proof is not None
    assert variant.proof.layer_share["int8"] > 0.5
    assert (found["model.onnx"].role, found["model.onnx"].precision) == ("chosen", "fp32")
    assert published.evidence.chosen == variant.candidate


def test_an_engine_that_lowers_nothing_needs_nothing_of_a_machine(tmp_path: Path) -> None:
    found = engines(built(tmp_path, engine="onnxruntime", precision="int8", objective="size"))
    has_vnni = {"avx512_vnni", "avx_vnni"} & set(this_hardware().isa)
    assert set(found["model.onnx"].target.isa) <= has_vnni
    assert bool(found["model.onnx"].target.isa) == bool(has_vnni)
    assert found["fallback.onnx"].target.isa == ()


def test_a_precision_that_cannot_be_had_here_publishes_nothing_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(VerifyFailed, match=r"onnxruntime fp16 was asked for and cannot be published: .*FP32"):
        built(tmp_path, engine="onnxruntime", precision="fp16")
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_another_machine_is_built_for_without_being_timed(tmp_path: Path) -> None:
    published = built(tmp_path, engine="onnxruntime", target="avx2")
    record = engines(published)["model.onnx"]
    assert (record.target.name, record.target.is_measured, record.speedup) == ("avx2", False, None)
    fallback = engines(published)["fallback.onnx"].target
    assert (fallback.name, fallback.is_measured) == ("host", False)
    page = (published.directory / "report.html").read_text()
    assert "built for host" not in page
    assert "not measured on the target" in published.evidence.reason
    assert all(not candidate.latency for candidate in published.evidence.candidates)
    schemes = {one.trial.get("scheme"): one.verdict for one in published.evidence.candidates if one.trial}
    assert schemes["u8s7"] in ("accepted", "chosen")


@pytest.mark.rtx
@pytest.mark.parametrize(("precision", "share"), [("int8", "int8"), ("fp16", "fp16")])
def test_a_plan_lies_beside_the_engines_that_run_here(tmp_path: Path, precision: str, share: str) -> None:
    published = built(tmp_path, engine="tensorrt-rtx", target="sm_89", precision=precision)
    plan = engines(published)["model.sm89.plan"]
    assert (plan.role, plan.platform, plan.precision) == ("variant", "tensorrt_plan", precision)
    assert (plan.target.compute_capability, plan.target.is_measured) == ("8.9", False)
    assert plan.target.libraries["tensorrt-rtx"]
    assert plan.proof is not None
    # In a process that has built many plans TensorRT-RTX took FP32 kernels for four of six layers; the proof says so.
    assert plan.proof.layer_share[share] > 0.3, plan.proof.kept
    assert len(plan.proof.kept) == round(6 * (1 - plan.proof.layer_share[share]))
    assert plan.tolerance.original
    assert not plan.tolerance.built
    assert (published.directory / "model.sm89.plan").stat().st_size > 100_000
