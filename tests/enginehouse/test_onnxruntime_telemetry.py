"""ONNX Runtime's wheels collect telemetry below the user's cache folder, and send it, unless they are told not to."""

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


def traces(home: Path, **told: str) -> list[str]:
    """Files that opening an engine leaves in a home of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1", **told}
    subprocess.run([sys.executable, "-c", OPEN_AN_ENGINE], cwd=ROOT, env=environment, check=True)
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_opening_an_engine_collects_nothing(tmp_path: Path) -> None:
    assert traces(tmp_path) == []


def test_who_wants_the_telemetry_may_have_it(tmp_path: Path) -> None:
    assert any(name.startswith("onnxruntime") for name in traces(tmp_path, ORT_DISABLE_TELEMETRY="0"))
