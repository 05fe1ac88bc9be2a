"""From an artifact to the engine that was meant, on the threads, the provider and the hint that were said."""

from pathlib import Path

import numpy as np
import pytest

from enginehouse.engine import Engine
from enginehouse.errors import MissingExtra, NotSupported
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.trial import EngineName
from tests.optimizer.conftest import small_rows, small_scores


def answers(engine: Engine) -> float:
    """The largest distance from what the small classifier answers, computed by hand."""
    x = small_rows(8, seed=1)
    return float(np.abs(engine.run({"x": x})["scores"] - small_scores(x)).max())


def test_onnx_runtime_opens_it_with_the_threads_it_is_given(small_model: Path) -> None:
    engine = open_artifact(Artifact(small_model, "onnxruntime"), threads=2)
    assert isinstance(engine, OnnxRuntimeEngine)
    assert engine._session.get_session_options().intra_op_num_threads == 2
    assert answers(engine) < 1e-5


def test_the_provider_is_the_one_that_was_said(small_model: Path) -> None:
    with pytest.raises(NotSupported, match="execution provider NoSuchProvider is not in"):
        open_artifact(Artifact(small_model, "onnxruntime", provider="NoSuchProvider"), threads=1)


def test_openvino_computes_float_layers_in_the_hint(small_model: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")
    plain = answers(open_artifact(Artifact(small_model, "openvino"), threads=1))
    assert plain < 1e-5
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16 instructions")
    lowered = answers(open_artifact(Artifact(small_model, "openvino", hint="bf16"), threads=1))
    assert 10 * plain < lowered < 0.2


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_goes_to_tensorrt(tmp_path: Path, engine: EngineName) -> None:
    with pytest.raises((MissingExtra, NotSupported), match=r"(?i)tensorrt"):
        open_artifact(Artifact(tmp_path / "model.plan", engine), threads=1)
