"""ONNX Runtime's wheels collect telemetry below the user's cache folder unless they are told not to."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
OPEN_AN_ENGINE = """
from pathlib import Path
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
OnnxRuntimeEngine(Path("examples/digits/digits.onnx")).close()
"""


def traces(home: Path, *command: str, **told: str) -> list[str]:
    """Files that a Python command leaves in a home of its own."""
    # The library collects nothing where it finds `CI` either, which would prove nothing about us.
    unwanted = ("ORT_DISABLE_TELEMETRY", "CI", "TF_BUILD", "GITHUB_ACTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **told}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return sorted(path.name for path in home.rglob("*") if path.is_file() and ".onnxruntime" in path.parts)


def test_opening_an_engine_collects_nothing(tmp_path: Path) -> None:
    assert traces(tmp_path, "-c", OPEN_AN_ENGINE) == []


def test_building_one_collects_nothing(tmp_path: Path) -> None:
    build = ("-m", "optimizer", "build", "examples/digits/digits_mlp.onnx", "--name", "digits")
    told = ("--repository", str(tmp_path / "models"), "--data", "examples/digits/digits.npz")
    assert traces(tmp_path, *build, *told, "--benchmark-seconds", "0.05") == []
    assert (tmp_path / "models" / "digits" / "1").is_dir()


def test_who_wants_the_telemetry_may_have_it(tmp_path: Path) -> None:
    assert "onnxruntime.db" in traces(tmp_path, "-c", OPEN_AN_ENGINE, ORT_DISABLE_TELEMETRY="0")
