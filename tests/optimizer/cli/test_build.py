import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).parents[3]
STEPS = ["import", "data", "rewrite", "reference", "search", "benchmark", "test", "publish"]


def optimizer(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the real command; its standard output is no terminal."""
    command = [sys.executable, "-m", "optimizer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)


def build(model: Path, repository: Path, *options: object) -> "subprocess.CompletedProcess[str]":
    return optimizer("build", model, "--name", "small", "--repository", repository, *options)


def test_build_prints_its_steps_and_the_table(small_model: Path, small_data: Path, tmp_path: Path) -> None:
    done = build(
        small_model, tmp_path / "repository", "--data", small_data, "--max-drop", "10%", "--benchmark-seconds", "0.02"
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = [line.split()[0] for line in lines[: lines.index("")]]
    assert steps == STEPS
    assert all(len(line) <= 100 for line in lines if str(tmp_path) not in line)
    assert any(line.startswith("int8 ") for line in lines)
    assert any(line.startswith("test top1: source 100.00%") for line in lines)
    assert lines[-1] == f"published {tmp_path / 'repository' / 'small' / '1'}"


def test_dry_run_prints_the_plan_and_writes_nothing(small_model: Path, small_data: Path, tmp_path: Path) -> None:
    done = build(small_model, tmp_path / "repository", "--data", small_data, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "by top1, drop at most 1%" in done.stdout
    assert "nothing was written" in done.stdout
    assert not (tmp_path / "repository").exists()


def test_inspect_describes_a_model(small_model: Path) -> None:
    done = optimizer("inspect", small_model)
    assert done.returncode == 0
    assert "scores" in done.stdout
    assert "Gemm" in done.stdout


def faulty_model(tmp_path: Path, fault: str) -> Path:
    path = tmp_path / "faulty.onnx"
    if fault == "corrupt":
        path.write_bytes(b"\x08\x0a" + b"\xff" * 100)
    elif fault == "text":
        path.write_text("This is not a model.")
    elif fault == "operators":
        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")]
        nodes = [
            helper.make_node("Sharpen", ["x"], ["z"], domain="com.example"),
            helper.make_node("Blur", ["z"], ["y"], domain="com.example"),
        ]
        graph = helper.make_graph(nodes, "g", value[:1], value[1:])
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
        path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("missing", ["faulty.onnx", "No such file"]),
        ("corrupt", ["faulty.onnx"]),
        ("text", ["faulty.onnx"]),
        ("operators", ["Sharpen", "Blur"]),
    ],
)
def test_a_faulty_model_is_one_clear_sentence(tmp_path: Path, fault: str, words: list[str]) -> None:
    assert_refused(build(faulty_model(tmp_path, fault), tmp_path / "repository"), *words)


def assert_refused(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_faulty_data_is_one_clear_sentence(small_model: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    path = tmp_path / "data.npz"
    np.savez(path, **{"validation/pixels": np.zeros((3, 4), np.float32)})  # type: ignore[arg-type]
    assert_refused(build(small_model, repository, "--data", path), "validation/pixels", "x FP32 [-1, 4]")
    np.savez(path, **{"validation/x": np.zeros((3, 5), np.float32)})  # type: ignore[arg-type]
    assert_refused(build(small_model, repository, "--data", path), "[5]", "[-1, 4]")
    np.savez(path, **{"validation/x": np.zeros((0, 4), np.float32)})  # type: ignore[arg-type]
    assert_refused(build(small_model, repository, "--data", path), "empty")
    np.savez(path, **{"validation/x": np.zeros((3, 4), np.float32)})  # type: ignore[arg-type]
    assert_refused(build(small_model, repository, "--data", path, "--metric", "top1"), "needs labels", "agreement")


def test_a_repository_that_cannot_be_written_is_refused_before_any_work(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = build(small_model, tmp_path / "file" / "repository")
    assert_refused(done, "file is not a directory")
    assert done.stdout == ""


def test_a_tolerance_that_nothing_meets_is_one_clear_sentence(
    small_model: Path, small_data: Path, tmp_path: Path
) -> None:
    done = build(small_model, tmp_path / "repository", "--data", small_data, "--max-drop=-1%")
    assert_refused(done, "fp32: top1 drops by 0.00%, -1% is allowed", "nothing was published")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_cleanly(
    small_model: Path, small_data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    repository = tmp_path / "repository"
    command = [sys.executable, "-m", "optimizer", "build", small_model, "--name", "small", "--repository", repository]
    process = subprocess.Popen(
        [*map(str, command), "--data", str(small_data), "--benchmark-seconds", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("search"):
            break
    process.send_signal(number)
    _, problem = process.communicate(timeout=30)
    assert process.returncode == 130
    assert problem.splitlines() == ["error: stopped; nothing was published."]
    assert [path.name for path in repository.iterdir()] == [".publish.lock"]
