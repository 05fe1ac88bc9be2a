import io
from pathlib import Path

import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console, RenderableType

from enginehouse.errors import InvalidInput
from optimizer.commands.verify import VerifyReport, verify_models
from tests.service.conftest import publish


def text(report: RenderableType) -> str:
    file = io.StringIO()
    Console(file=file, width=160).print(report)
    return file.getvalue()


@pytest.fixture
def ruined(small_model: Path, tmp_path: Path) -> Path:
    """The classifier with the weights of its last layer turned round: it answers wrongly."""
    model = onnx.load(small_model)
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "score_weight")
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    path = tmp_path / "ruined.onnx"
    onnx.save(model, path)
    return path


def judged(original: Path, candidate: Path, data: Path | None, max_drop: str = "1%") -> VerifyReport:
    return verify_models(str(original), str(candidate), Path("none"), str(data) if data else None, max_drop=max_drop)


def test_an_equal_model_is_accepted(small_model: Path, small_data: Path) -> None:
    found = judged(small_model, small_model, small_data)
    assert found.is_accepted
    told = text(found.report)
    assert "100.00% → 100.00%" in told
    assert told.rstrip().endswith("accepted")


def test_a_model_that_answers_wrongly_is_rejected_with_figures(
    small_model: Path, small_data: Path, ruined: Path
) -> None:
    found = judged(small_model, ruined, small_data)
    assert not found.is_accepted
    told = text(found.report)
    assert "rejected: top1 drops by" in told
    assert "60 validation rows" in told
    assert "worst row" in told
    assert judged(small_model, ruined, small_data, max_drop="100%").is_accepted


def test_without_data_outputs_must_be_equal(small_model: Path, ruined: Path) -> None:
    assert judged(small_model, small_model, None).is_accepted
    found = judged(small_model, ruined, None)
    assert "allowed without data" in text(found.report)
    assert not found.is_accepted


def test_two_versions_of_a_model_are_compared_by_name(tmp_path: Path) -> None:
    publish(tmp_path, 1, chosen=2.0)
    publish(tmp_path, 2, chosen=2.5)
    found = verify_models("m/1", "m", tmp_path)
    assert not found.is_accepted
    assert "model.onnx onnxruntime_onnx fp32" in text(found.report)


def test_a_tolerance_that_is_none_is_refused(small_model: Path) -> None:
    with pytest.raises(InvalidInput, match="max-drop is 'much'"):
        judged(small_model, small_model, None, max_drop="much")
