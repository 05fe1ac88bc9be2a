from pathlib import Path

import numpy as np
import onnx
import pytest

from enginehouse.errors import CorruptVersion, InvalidInput, NotFound
from optimizer.commands.subject import Subject, check_same_interface, find_subject, opened
from tests.enginehouse.conftest import make_record
from tests.service.conftest import make_scale_model, publish

VARIANT = make_record(
    "model.openvino.onnx", "variant", platform="openvino", settings={"INFERENCE_PRECISION_HINT": "f32"}, speedup=3.0
)


def factor(subject: Subject) -> float:
    """What a scale model multiplies by."""
    with opened([subject]) as (engine,):
        return float(engine.run({"x": np.ones((1, 2), np.float32)})["y"][0, 0])


def test_a_model_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "scale.onnx"
    onnx.save(make_scale_model(3.0), path)
    found = find_subject(str(path), tmp_path, tmp_path)
    assert (factor(found), found.precision, found.platform) == (3.0, "fp32", "onnxruntime_onnx")
    assert str(found) == "scale.onnx onnxruntime_onnx fp32"


def test_a_name_is_the_newest_version_and_a_number_another(tmp_path: Path) -> None:
    publish(tmp_path, 1, chosen=3.0)
    publish(tmp_path, 2, chosen=5.0)
    assert factor(find_subject("m", tmp_path, tmp_path)) == 5.0
    assert factor(find_subject("m/1", tmp_path, tmp_path)) == 3.0
    assert factor(find_subject(str(tmp_path / "m" / "1"), tmp_path / "elsewhere", tmp_path)) == 3.0


def test_a_version_stands_for_the_engine_that_would_serve_here(tmp_path: Path) -> None:
    publish(tmp_path, chosen=3.0, variants=[(VARIANT, 7.0)])
    found = find_subject("m", tmp_path, tmp_path)
    assert found.platform == "openvino"
    assert str(found) == "model.openvino.onnx openvino fp32 f32"
    assert factor(found) == 7.0


def test_a_file_of_a_version_stands_for_itself_and_opens_as_its_evidence_says(tmp_path: Path) -> None:
    directory = publish(tmp_path, chosen=3.0, fallback=9.0, variants=[(VARIANT, 7.0)])
    assert factor(find_subject(str(directory / "fallback.onnx"), tmp_path, tmp_path)) == 9.0
    assert find_subject(str(directory / "model.openvino.onnx"), tmp_path, tmp_path).platform == "openvino"


def test_a_version_whose_files_were_changed_is_refused(tmp_path: Path) -> None:
    directory = publish(tmp_path, chosen=3.0, fallback=9.0)
    onnx.save(make_scale_model(4.0), directory / "model.onnx")
    for text in ("m", "m/1", str(directory), str(directory / "model.onnx")):
        with pytest.raises(CorruptVersion, match=r"model\.onnx has SHA-256"):
            find_subject(text, tmp_path, tmp_path)
    assert factor(find_subject(str(directory / "fallback.onnx"), tmp_path, tmp_path)) == 9.0


def test_a_version_of_another_tool_is_its_model_file(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    with pytest.raises(NotFound, match=r"holds neither evidence nor a model\.onnx"):
        find_subject("m/1", tmp_path, tmp_path)
    onnx.save(make_scale_model(4.0), tmp_path / "m" / "1" / "model.onnx")
    assert factor(find_subject("m", tmp_path, tmp_path)) == 4.0


def test_what_is_not_there_and_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"none\.onnx does not exist; expected a model file"):
        find_subject("none.onnx", tmp_path, tmp_path)
    with pytest.raises(NotFound, match="model 'nobody' is not in"):
        find_subject("nobody", tmp_path, tmp_path)
    (tmp_path / "model.h5").write_bytes(b"x")
    with pytest.raises(InvalidInput, match="is of no known kind; expected a model file"):
        find_subject(str(tmp_path / "model.h5"), tmp_path, tmp_path)


def test_models_that_cannot_be_fed_the_same_rows_are_refused(tmp_path: Path) -> None:
    model = make_scale_model(1.0)
    onnx.save(model, tmp_path / "a.onnx")
    model.graph.output[0].name = model.graph.node[0].output[0] = "z"
    onnx.save(model, tmp_path / "b.onnx")
    subjects = [find_subject(str(tmp_path / f"{name}.onnx"), tmp_path, tmp_path) for name in "ab"]
    with opened(subjects) as engines, pytest.raises(InvalidInput, match=r"gives y FP32 .*, and .*b\.onnx gives z FP32"):
        check_same_interface(subjects, engines)


def test_a_long_path_has_a_short_label() -> None:
    path = Path("/a/very/long/way/to/some/folder/model.onnx")
    found = Subject(str(path), path, "onnxruntime_onnx", "fp32", None)
    assert found.label == "…/folder/model.onnx"
    assert Subject("m/1", path, "onnxruntime_onnx", "fp32", None).label == "m/1"
