"""A build that is killed at any point leaves the repository as it was, or one complete version richer."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from enginehouse.evidence import read_evidence
from enginehouse.model_config import read_config
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.repository import Repository, check_digests

ROOT = Path(__file__).parent.parent.parent
ANYWHERE, NEAR_PUBLISHING = 12, 8


@dataclass(frozen=True)
class Builder:
    """Starts builds of one small model into one repository."""

    model: Path
    data: Path
    repository: Path

    def start(self, name: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "optimizer", "build", self.model, "--name", name, "--data", self.data]
        options = ["--repository", self.repository, "--max-drop", "10%", "--benchmark-seconds", "0.005"]
        options += ["--engine", "onnxruntime"]
        return subprocess.Popen(
            [*map(str, command), *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def finish(self, name: str) -> str:
        with self.start(name) as process:
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output


def kill(process: "subprocess.Popen[str]", after_line: str, delay_seconds: float) -> None:
    """Wait for a line of the build's output, if one is asked for, then a little longer, and kill."""
    assert process.stdout is not None
    with process:
        for line in process.stdout if after_line else ():
            if line.startswith(after_line):
                break
        try:
            process.wait(timeout=delay_seconds)
        except subprocess.TimeoutExpired:
            process.kill()


def complete_versions(repository: Path) -> dict[str, list[int]]:
    """Check that everything a server can see is whole, to the last byte and the last answer, and list it."""
    found = Repository(repository)
    names = found.model_names()
    assert names == sorted(path.name for path in repository.iterdir() if not path.name.startswith("."))
    for name in names:
        assert read_config(found.model_directory(name)).max_batch_size == 32
        assert {path.name for path in found.model_directory(name).iterdir()} == {
            "config.pbtxt",
            *map(str, found.versions(name)),
        }
        for version in found.versions(name):
            check_version(found.version_directory(name, version), version)
    return {name: found.versions(name) for name in names}


def check_version(directory: Path, version: int) -> None:
    evidence = read_evidence(directory)
    assert evidence is not None
    assert evidence.version == version
    assert set(evidence.files) == {"model.onnx", "fallback.onnx", "golden.npz", "report.html"}
    check_digests(directory, evidence)
    with np.load(directory / "golden.npz", allow_pickle=False) as golden:
        outputs = OnnxRuntimeEngine(directory / "model.onnx").run({"x": golden["input/x"]})
        near = evidence.engine_file("chosen").tolerance.built["scores"]
        np.testing.assert_allclose(outputs["scores"], golden["built/model.onnx/scores"], near.rtol, near.atol)


@pytest.fixture
def builder(small_model: Path, small_data: Path, tmp_path: Path) -> Builder:
    return Builder(small_model, small_data, tmp_path / "repository")


def test_a_build_killed_at_any_point_leaves_whole_versions_only(builder: Builder) -> None:
    started = monotonic()
    builder.finish("small")
    duration = monotonic() - started
    random = np.random.default_rng(20)
    points = [("", float(delay)) for delay in random.uniform(0, duration, ANYWHERE)]
    points += [("test ", float(delay)) for delay in random.uniform(0, 0.02, NEAR_PUBLISHING)]
    before = complete_versions(builder.repository)
    for number, (after_line, delay) in enumerate(points):
        # Every other build is a model's first, which brings its whole directory.
        name = "small" if number % 2 else f"new{number}"
        kill(builder.start(name), after_line, delay)
        after = complete_versions(builder.repository)
        known = before.get(name, [])
        assert after in (before, {**before, name: [*known, len(known) + 1]}), f"killed {delay} s after '{after_line}'"
        before = after
    (builder.repository / ".staging-of-a-dead-build").mkdir()
    builder.finish("small")
    assert complete_versions(builder.repository) == {**before, "small": [*before["small"], len(before["small"]) + 1]}
    assert list(builder.repository.glob(".staging-*")) == []


def test_builds_of_one_model_at_once_get_a_number_each(builder: Builder) -> None:
    processes = [builder.start("small") for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert complete_versions(builder.repository) == {"small": [1, 2, 3]}
    assert list(builder.repository.glob(".staging-*")) == []
    said = sorted(output.splitlines()[-1] for output in outputs)
    assert said == [f"published {builder.repository / 'small' / str(version)}" for version in (1, 2, 3)]
