"""From a platform's name to an engine; and nothing heavy is imported before it is asked for."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import onnx
import pytest

from enginehouse.config_completion import FILE_OF_PLATFORM
from enginehouse.errors import NotSupported
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.open_engine import ENGINES, open_engine
from enginehouse.openvino_engine import OpenVinoEngine
from tests.conftest import ROOT

HEAVY = ("onnxruntime", "openvino", "tensorrt", "torch", "tensorflow")


def test_onnx_opens_with_onnx_runtime(tmp_path: Path, identity_model: Callable[..., onnx.ModelProto]) -> None:
    onnx.save(identity_model(), tmp_path / "model.onnx")
    engine = open_engine(tmp_path / "model.onnx", "onnxruntime_onnx", threads=1)
    assert isinstance(engine, OnnxRuntimeEngine)


def test_every_platform_of_the_configuration_has_a_door_that_is_there() -> None:
    assert {*ENGINES, "python"} == set(FILE_OF_PLATFORM), "a Python model is opened with its configuration"
    for door in ENGINES.values():
        module, _, name = door.partition(":")
        assert callable(getattr(import_module(module), name))


def test_an_unknown_platform_is_refused_by_name() -> None:
    with pytest.raises(NotSupported, match="platform 'pytorch_libtorch' is unknown; expected one of onnxruntime_onnx"):
        open_engine(Path("model.pt"), "pytorch_libtorch", threads=1)


def test_a_gpu_is_never_quietly_replaced_by_the_cpu() -> None:
    with pytest.raises(NotSupported, match="'openvino' runs on the CPU here, not with CUDAExecutionProvider"):
        open_engine(Path("model.xml"), "openvino", threads=1, provider="CUDAExecutionProvider")


def run_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules(*packages: str) -> list[str]:
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return sorted(name.removesuffix(".__init__") for name in names if not name.endswith("__main__"))


def test_every_module_imports_without_the_heavy_libraries() -> None:
    program = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"blocked: {{name}}")

sys.meta_path.insert(0, Blocker())
for name in {modules("enginehouse", "service", "optimizer")!r}:
    importlib.import_module(name)
print("all imported")
"""
    assert run_python(program) == "all imported\n"


def test_the_service_imports_neither_the_optimizer_nor_what_builds_models() -> None:
    program = f"""
import importlib, sys
for name in {modules("enginehouse", "service")!r}:
    importlib.import_module(name)
tops = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(tops & {{"optimizer", "onnx", "onnxscript", "onnxslim", *{HEAVY!r}}}))
"""
    assert run_python(program) == "[]\n"


def test_an_openvino_variant_computes_in_the_precision_that_its_settings_name(
    tmp_path: Path, identity_model: Callable[..., onnx.ModelProto]
) -> None:
    onnx.save(identity_model(), tmp_path / "model.openvino.onnx")
    for hint, name in (("f32", "float32"), ("bf16", "bfloat16")):
        settings = {"INFERENCE_PRECISION_HINT": hint}
        engine = open_engine(tmp_path / "model.openvino.onnx", "openvino", threads=1, settings=settings)
        assert isinstance(engine, OpenVinoEngine)
        compiled = engine._request.get_compiled_model()
        assert name in str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        engine.close()


@pytest.mark.parametrize("platform", ["onnxruntime_onnx", "openvino", "tensorrt_plan"])
def test_a_setting_that_a_library_does_not_have_is_refused_by_name(platform: str) -> None:
    with pytest.raises(NotSupported, match=f"asks for the setting host_code, which engines of platform '{platform}'"):
        open_engine(Path("model"), platform, threads=1, settings={"host_code": "allowed"})
