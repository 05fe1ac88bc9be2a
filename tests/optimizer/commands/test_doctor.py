"""`doctor` says of each engine of a version what it would do on this machine, and why."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from enginehouse.errors import CorruptVersion, InvalidInput, NotFound
from enginehouse.evidence import TargetRecord
from enginehouse.hardware import Hardware
from optimizer.commands.doctor import Diagnosis, diagnose, version_directory
from tests.enginehouse.conftest import make_record
from tests.service.conftest import publish

MACHINE = Hardware(cpu="a small CPU", architecture="x86_64", isa=("avx2",), cores=2)
ALL = {"onnxruntime": "1.31.1", "openvino": "2026.4.1"}
VARIANTS = [
    (
        make_record(
            "model.openvino.onnx", "variant", platform="openvino", speedup=3.0, precision="int8",
            settings={"INFERENCE_PRECISION_HINT": "bf16"},
        ),
        2.0,
    ),
    (
        make_record(
            "model.sm89.plan", "variant", platform="tensorrt_plan", target=TargetRecord(compute_capability="8.9"),
        ),
        2.0,
    ),
]  # fmt: skip


def diagnosis(
    model: str, repository: Path, machine: Hardware = MACHINE, installed: Mapping[str, str] = ALL
) -> Diagnosis:
    return diagnose(model, repository, lambda: machine, installed.get)


def text(found: Diagnosis) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(found.report)
    printed: Any = console.file
    return str(printed.getvalue())


def row(found: Diagnosis, file: str) -> str:
    return next(" ".join(line.split()) for line in text(found).splitlines() if line.startswith(file))


def test_each_engine_has_a_line_with_its_verdict_and_the_machine_is_named(tmp_path: Path) -> None:
    publish(tmp_path, variants=VARIANTS)
    found = diagnosis("m", tmp_path)
    assert found.can_serve
    assert row(found, "version") == f"version m 1 in {tmp_path}/m/1"
    assert row(found, "this machine") == "this machine a small CPU, 2 cores, avx2, no GPU"
    assert row(found, "files") == "files 5, as they were published"
    assert row(found, "model.openvino.onnx") == (
        "model.openvino.onnx openvino int8 bf16 3.00x serves the best that is valid here"
    )
    assert row(found, "model.onnx").startswith("model.onnx onnxruntime_onnx fp32 - can run ")
    assert "cannot tensorrt or" in row(found, "model.sm89.plan")
    assert row(found, "fallback.onnx").endswith("can run it serves when no other engine can")


def test_another_machine_has_another_answer(tmp_path: Path) -> None:
    publish(tmp_path, variants=VARIANTS)
    gpu = MACHINE.model_copy(update={"gpu": "a GPU", "compute_capability": "8.9"})
    found = diagnosis("m", tmp_path, gpu, {"onnxruntime": "1", "tensorrt-rtx": "1"})
    assert "a GPU" in row(found, "this machine")
    assert "(compute capability 8.9)" in row(found, "this machine")
    assert "cannot openvino is not installed" in row(found, "model.openvino.onnx")
    assert "serves the best that is valid here" in row(found, "model.sm89.plan")


def test_a_version_that_nothing_can_run_says_why_for_each_engine(tmp_path: Path) -> None:
    publish(tmp_path, variants=VARIANTS)
    found = diagnosis("m", tmp_path, installed={})
    assert not found.can_serve
    assert "cannot onnxruntime or onnxruntime-gpu is not installed" in row(found, "model.onnx")
    assert "cannot openvino is not installed" in row(found, "model.openvino.onnx")


def test_changed_files_are_named_and_the_version_cannot_serve(tmp_path: Path) -> None:
    directory = publish(tmp_path)
    (directory / "model.onnx").write_bytes(b"changed")
    found = diagnosis("m", tmp_path)
    assert not found.can_serve
    assert "has SHA-256" in text(found)


def test_a_model_is_named_by_its_version_its_directory_or_its_name(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 2)
    for model, version in (("m", 2), ("m/1", 1), (str(tmp_path / "m"), 2), (str(tmp_path / "m" / "1"), 1)):
        assert version_directory(model, tmp_path) == tmp_path / "m" / str(version)
    (tmp_path / "m" / "2").rename(tmp_path / "m" / "withdrawn.2")
    assert version_directory(str(tmp_path / "m" / "withdrawn.2"), tmp_path).name == "withdrawn.2"
    assert version_directory("m", tmp_path).name == "1"


def test_an_unknown_model_is_told_what_the_repository_holds(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        version_directory("nobody", tmp_path)
    assert str(caught.value) == f"model 'nobody' is not in {tmp_path}; it holds no model."
    publish(tmp_path, name="a")
    publish(tmp_path, name="b")
    for model in ("nobody", "nobody/1"):
        with pytest.raises(NotFound) as caught:
            version_directory(model, tmp_path)
        assert str(caught.value) == f"model '{model.removesuffix('/1')}' is not in {tmp_path}; it holds a, b."


def test_a_model_whose_versions_are_all_withdrawn_is_told_how_to_bring_one_back(tmp_path: Path) -> None:
    for version in (1, 2):
        publish(tmp_path, version).rename(tmp_path / "m" / f"withdrawn.{version}")
    for model in ("m", "m/1", str(tmp_path / "m")):
        with pytest.raises(NotFound, match=r"withdrawn \(1, 2\)\. `withdraw m 2 --undo` brings 2 back"):
            version_directory(model, tmp_path)


def test_what_is_not_there_or_not_ours_is_refused(tmp_path: Path) -> None:
    directory = publish(tmp_path)
    for model, message in (
        ("nobody", "'nobody' is not in"),
        ("m/7", "has no version 7"),
        ("m/x", "neither a directory"),
    ):
        with pytest.raises(NotFound, match=message):
            diagnosis(model, tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.pbtxt").touch()
    with pytest.raises(NotFound, match="'empty' has no version"):
        diagnosis("empty", tmp_path)
    (directory / "evidence.json").write_text('{"schema_version": 1}')
    with pytest.raises(CorruptVersion, match="Build the version again"):
        diagnosis("m", tmp_path)
    (directory / "evidence.json").unlink()
    with pytest.raises(InvalidInput, match=r"holds no evidence\.json, so nothing is known of its engines"):
        diagnosis("m", tmp_path)
