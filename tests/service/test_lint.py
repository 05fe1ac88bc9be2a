"""The lint says of each model what is honoured, emulated and refused, and knows what would not load."""

from collections.abc import Callable
from pathlib import Path

import pytest

from docs.tables import FOLDER
from enginehouse.errors import InvalidInput
from enginehouse.repository import Repository
from service.lint import Finding, check_python, inspect_model, is_servable, lint
from tests.service.conftest import make_scale_model

Model = Callable[..., Path]
TENSORS = """
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """`model(config_text, name="m", files=("1/model.onnx",))`; the files are empty, for the lint opens none."""

    def write(text: str, name: str = "m", files: tuple[str, ...] = ("1/model.onnx",), content: str = "") -> Path:
        for file in files:
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
        return tmp_path

    return write


def findings(root: Path, name: str = "m") -> list[Finding]:
    return inspect_model([Repository(root)], name)


def refused(root: Path, name: str = "m") -> list[tuple[str, str]]:
    return [(finding.what, finding.note) for finding in findings(root, name) if finding.standing == "refused"]


def test_each_field_has_its_word_and_its_reason(model: Model) -> None:
    text = """max_batch_size: 4 optimization { cuda { graphs: true } }
    instance_group { host_policy: "a" kind: KIND_CPU }
    parameters { key: "share_session_between_instances" value { string_value: "true" } }
    parameters { key: "mine" value { string_value: "1" } }"""
    found = {finding.what: finding for finding in findings(model(text + TENSORS))}
    assert found["max_batch_size"].standing == "honoured"
    assert found["optimization.cuda.graphs"] == Finding(
        "emulated", "optimization.cuda.graphs", "a hint for speed that is not taken; the answers are the same"
    )
    assert (found["instance_group.host_policy"].standing, found["instance_group.host_policy"].note) == (
        "refused",
        "pin the whole server to its cores instead",
    )
    assert found["parameters['share_session_between_instances']"].standing == "emulated"
    assert "parameters['mine']" not in found


@pytest.mark.parametrize(
    ("text", "what", "note"),
    [
        ("max_batch: 4", "config.pbtxt", 'no field named "max_batch"'),
        ("name: 'other'", "config.pbtxt", "they must agree"),
        ("backend: 'pytorch'", "version 1", "has platform 'pytorch'"),
        ("default_model_filename: 'other.onnx'", "version 1", "other.onnx is not there"),
        ("version_policy { specific { versions: 7 } }", "version_policy", "names version 7; there are [1]"),
        ("version_policy { specific { } }", "versions", "there is none to serve"),
        ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 9 }", "version 1", "9 must lie in 1..4"),
        ("input { name: 'x' data_type: TYPE_FP32 }", "version 1", "input 'x' has no dims"),
        ("optimization { graph { level: 9 } }", "version 1", "graph.level is 9"),
        ("parameters { key: 'slo_ms' value { string_value: 'soon' } }", "version 1", "'soon'"),
        (
            "max_batch_size: 4 sequence_batching { state { input_name: 'i' } }",
            "version 1",
            "needs an input_name and an",
        ),
        ("max_batch_size: 4 sequence_batching { control_input { } }", "version 1", "must have a name"),
        (
            "sequence_batching { iterative_sequence: true }",
            "sequence_batching.iterative_sequence",
            "for backends that put a request back in its queue",
        ),
        (
            "input { name: 'x' data_type: TYPE_FP32 dims: 4 reshape { shape: 3 } }",
            "version 1",
            "dims [4], which cannot be reshaped to [3]",
        ),
        ("instance_group { kind: KIND_MODEL }", "instance_group", "kind 3 is not supported"),
        (
            "output { name: 'y' label_filename: 'no.txt' data_type: TYPE_FP32 dims: 1 }",
            "label_filename",
            "cannot be read",
        ),
        ("ensemble_scheduling { }", "ensemble_scheduling", "whose platform is not ensemble"),
    ],
)
def test_what_would_not_load_is_refused(model: Model, text: str, what: str, note: str) -> None:
    found = refused(model(text))
    assert [where for where, _ in found] == [what]
    assert note in found[0][1]


def test_a_model_without_a_configuration_is_told_from_its_file(model: Model, tmp_path: Path) -> None:
    model("")
    (tmp_path / "m" / "config.pbtxt").unlink()
    assert refused(tmp_path) == []


def test_batching_may_be_asked_for_before_the_engine_tells_the_inputs(model: Model) -> None:
    assert refused(model("max_batch_size: 8 dynamic_batching { }")) == []


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import triton_python_backend_utils as pb_utils", "imports triton_python_backend_utils"),
        ("def later():\n    from triton_python_backend_utils import Tensor", "imports triton_python_backend_utils"),
        ("class Half:", "is no Python file"),
    ],
)
def test_a_model_of_the_other_python_backend_is_told_how_to_be_written(tmp_path: Path, code: str, note: str) -> None:
    file = tmp_path / "model.py"
    file.write_text("class Model: ...\n")
    check_python(file)
    file.write_text(code)
    with pytest.raises(InvalidInput, match=note):
        check_python(file)


ENSEMBLE = """platform: "ensemble" ensemble_scheduling { step {
  model_name: "MODEL" input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }"""


def test_an_ensemble_needs_its_models(model: Model) -> None:
    model(TENSORS)
    root = model(ENSEMBLE.replace("MODEL", "m") + TENSORS, name="e", files=("1/.keep",))
    assert refused(root, "e") == []
    model(ENSEMBLE.replace("MODEL", "gone") + TENSORS, name="e", files=("1/.keep",))
    ((what, note),) = refused(root, "e")
    assert (what, note.split(";")[0]) == (
        "ensemble_scheduling",
        "ensemble 'e' asks the model 'gone', which is in no repository here.",
    )


def test_an_objective_of_an_ensemble_must_be_a_time(model: Model) -> None:
    model(TENSORS)
    slo = 'parameters { key: "slo_ms" value { string_value: "soon" } }'
    root = model(ENSEMBLE.replace("MODEL", "m") + TENSORS + slo, name="e", files=("1/.keep",))
    ((what, note),) = refused(root, "e")
    assert what == "ensemble_scheduling"
    assert "slo_ms is 'soon'" in note


def test_a_model_in_two_repositories_is_refused(model: Model, tmp_path: Path) -> None:
    root = model("")
    other = tmp_path / "other"
    (other / "m" / "1").mkdir(parents=True)
    found = inspect_model([Repository(root), Repository(other)], "m")
    assert [finding.what for finding in found] == ["name"]
    assert not is_servable(found)


def test_the_report_names_every_model_and_the_status_tells_the_worst(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    root = model("optimization { eager_batching: true }" + TENSORS, name="fine")
    assert lint([str(root)]) == 0
    text = capsys.readouterr().out
    assert "fine can be served" in text
    assert "│ emulated │ optimization.eager_batching" in text
    model("runtime: 'x'" + TENSORS, name="bad")
    assert lint([str(root)]) == 1
    text = capsys.readouterr().out
    assert "bad is refused" in text
    assert "│ refused  │ runtime" in text
    assert "1 of 2 models can be served." in text


def test_a_repository_that_is_not_there_is_an_error_of_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint([str(tmp_path / "none")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert lint([str(tmp_path)]) == 2


def test_the_configuration_of_a_kind_of_machine_is_read_where_there_is_one(model: Model) -> None:
    root = model(TENSORS)
    (root / "m" / "configs").mkdir()
    (root / "m" / "configs" / "h100.pbtxt").write_text("runtime: 'x'" + TENSORS)
    assert lint([str(root)]) == 0
    assert lint(["--model-config-name", "h100", str(root)]) == 1
    assert lint(["--model-config-name", "other", str(root)]) == 0


def test_a_version_can_be_opened_to_be_sure(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    root = model("max_batch_size: 4 input { name: 'wrong' data_type: TYPE_FP32 dims: 2 }")
    (root / "m" / "1" / "model.onnx").write_bytes(make_scale_model(2.0).SerializeToString())
    assert lint([str(root)]) == 0
    assert lint(["--open", str(root)]) == 1
    assert "unexpected inference input 'wrong'" in capsys.readouterr().out
    model("max_batch_size: 4", files=())
    assert lint(["--open", str(root)]) == 0


def test_an_engine_that_servers_share_is_opened_like_any_other(model: Model) -> None:
    root = model('max_batch_size: 4 parameters { key: "isolation" value { string_value: "shared" } }')
    (root / "m" / "1" / "model.onnx").write_bytes(make_scale_model(2.0).SerializeToString())
    assert lint(["--open", str(root)]) == 0
    assert [finding.standing for finding in findings(root) if finding.what == "parameters['isolation']"] == ["honoured"]
    (root / "m" / "1" / "model.onnx").write_bytes(b"nonsense")
    assert lint([str(root)]) == 0
    assert lint(["--open", str(root)]) == 1


def test_the_documentation_shows_what_is_printed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model(
        """platform: "onnxruntime_onnx" max_batch_size: 32 dynamic_batching { max_queue_delay_microseconds: 100 }
        optimization { cuda { graphs: true } }""",
        name="resnet50",
    )
    root = model("""backend: "onnxruntime" model_operations { op_library_filename: "custom.so" }""", name="scorer")
    assert lint([str(root)]) == 1
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert f"```text\n{printed}\n```" in (FOLDER / "triton.md").read_text()


def test_a_directory_that_is_no_model_for_want_of_a_version_is_not_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "model.onnx").touch()
    assert lint([str(tmp_path)]) == 2
    assert f"{tmp_path / 'flat'} is no model: it has no version. Put its files into" in capsys.readouterr().out
