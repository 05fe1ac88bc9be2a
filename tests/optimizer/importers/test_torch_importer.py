import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from enginehouse.errors import InvalidInput, MissingExtra, Unsupported
from optimizer.importers import torch_export
from optimizer.importers.torch_importer import error_from_exit, onnx_from_pt2


def archive(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for member in members:
            file.writestr(member, "pt2")
    return path


def saved(path: Path, model: Any, inputs: tuple[Any, ...], dynamic_shapes: Any) -> Path:
    import torch

    torch.export.save(torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes), path)
    return path


def cnn() -> Any:
    from torch import nn

    head = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(*head, nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def saved_cnn(path: Path, *, training: bool = False) -> tuple[Path, Any]:
    import torch

    torch.manual_seed(0)
    model = cnn().train(training)
    shapes = ({0: torch.export.Dim("batch")},)
    return saved(path, model, (torch.zeros(2, 1, 8, 8),), shapes), model


def shape_of(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, optimizer.importers.torch_importer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_torch_names_the_extra_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    source = archive(tmp_path / "model.pt2", "model/archive_format")
    with pytest.raises(
        MissingExtra, match=r"importing a \.pt2 program needs the library 'torch'.*enginehouse\[torch\]"
    ):
        onnx_from_pt2(source, tmp_path / "model.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no file '.*nowhere\.pt2'"):
        onnx_from_pt2(tmp_path / "nowhere.pt2", tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"not a program", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_is_refused_with_the_way_to_write_one(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "model.pt2"
    source.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"damaged or not a PyTorch program.*torch\.export\.save"):
        onnx_from_pt2(source, tmp_path / "model.onnx")


def test_an_archive_without_a_program_is_refused(tmp_path: Path) -> None:
    source = archive(tmp_path / "weights.pt2", "weights/data.pkl", "weights/data/0")
    with pytest.raises(InvalidInput, match="state_dict"):
        onnx_from_pt2(source, tmp_path / "model.onnx")


def test_a_refusal_is_told_in_the_words_of_the_process() -> None:
    log = f"some warning\n{torch_export.REASON}'m.pt2' cannot be loaded: why.\nnoise at exit\n"
    error = error_from_exit(Path("m.pt2"), torch_export.EXIT_INVALID_INPUT, log)
    assert isinstance(error, InvalidInput)
    assert str(error) == "'m.pt2' cannot be loaded: why."
    assert isinstance(error_from_exit(Path("m.pt2"), torch_export.EXIT_UNSUPPORTED, log), Unsupported)


def test_a_crash_is_told_by_its_signal_and_last_words() -> None:
    error = error_from_exit(Path("m.pt2"), -9, "loading\nout of memory\n")
    assert isinstance(error, Unsupported)
    assert "'m.pt2'" in str(error)
    assert "SIGKILL" in str(error)
    assert "out of memory" in str(error)


def test_a_silent_end_is_told_by_its_exit_code() -> None:
    assert str(error_from_exit(Path("m.pt2"), torch_export.EXIT_INVALID_INPUT, "")).endswith("exit code 3")


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::FutureWarning")  # PyTorch about its own insides
class TestWithTorch:
    def test_a_cnn_answers_as_before_at_every_batch_size(self, tmp_path: Path) -> None:
        import torch

        source, model = saved_cnn(tmp_path / "cnn.pt2")
        target = tmp_path / "cnn.onnx"
        onnx_from_pt2(source, target)

        graph = onnx.load(target).graph
        batch, *rest = shape_of(graph.input[0])
        assert isinstance(batch, str)
        assert rest == [1, 8, 8]
        assert shape_of(graph.output[0]) == [batch, 10]
        session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
        for rows in (1, 7):
            pixels = np.random.default_rng(rows).random((rows, 1, 8, 8), dtype=np.float32)
            with torch.no_grad():
                expected = model(torch.from_numpy(pixels)).numpy()
            (found,) = session.run(None, {graph.input[0].name: pixels})
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cnn.onnx", "cnn.pt2"]

    def test_the_file_holds_no_path_of_the_machine_that_exported(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2")
        onnx_from_pt2(source, tmp_path / "cnn.onnx")
        content = (tmp_path / "cnn.onnx").read_bytes()
        assert b".py" not in content
        assert str(Path.cwd()).encode() not in content

    def test_two_inputs_and_two_outputs_keep_names_order_and_types(self, tmp_path: Path) -> None:
        import torch

        class Score(torch.nn.Module):  # type: ignore[misc]  # PyTorch is untyped here
            def forward(self, left: Any, weight: Any) -> tuple[Any, Any]:
                return left * weight, (left.sum(1) > weight).to(torch.int64)

        batch = torch.export.Dim("batch")
        inputs = (torch.zeros(2, 2), torch.zeros(2, 1))
        source = saved(tmp_path / "two.pt2", Score(), inputs, {"left": {0: batch}, "weight": {0: batch}})
        onnx_from_pt2(source, tmp_path / "two.onnx")

        session = onnxruntime.InferenceSession(tmp_path / "two.onnx", providers=["CPUExecutionProvider"])
        assert [value.name for value in session.get_inputs()] == ["left", "weight"]
        left = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
        weight = np.array([[0], [1], [20]], np.float32)
        product, above = session.run(None, {"left": left, "weight": weight})
        np.testing.assert_array_equal(product, left * weight)
        np.testing.assert_array_equal(above, left.sum(1) > weight)
        assert above.dtype == np.int64

    def test_a_damaged_program_is_refused_in_one_sentence_and_leaves_nothing(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2")
        content = bytearray(source.read_bytes())
        start = content.index(b'"graph_module"')
        content[start : start + 100] = bytes(100)
        source.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"cannot be loaded as a PyTorch program") as refusal:
            onnx_from_pt2(source, tmp_path / "cnn.onnx")
        assert "\n" not in str(refusal.value)
        assert not (tmp_path / "cnn.onnx").exists()

    def test_a_program_in_training_mode_is_refused(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2", training=True)
        with pytest.raises(InvalidInput, match=r"training mode \(aten::batch_norm, aten::dropout\).*model\.eval\(\)"):
            onnx_from_pt2(source, tmp_path / "cnn.onnx")

    def test_operators_without_a_translation_are_named_all_at_once(self, tmp_path: Path) -> None:
        import torch

        class Decompose(torch.nn.Module):  # type: ignore[misc]  # PyTorch is untyped here
            def forward(self, matrix: Any) -> Any:
                return torch.linalg.eigvalsh(matrix) + torch.linalg.qr(matrix)[0]

        source = saved(tmp_path / "linear.pt2", Decompose(), (torch.zeros(4, 4),), None)
        with pytest.raises(Unsupported, match=r"_linalg_eigh.*linalg_qr"):
            onnx_from_pt2(source, tmp_path / "linear.onnx")

    def test_an_operator_of_an_extension_that_is_not_here_is_named(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2")
        renamed = tmp_path / "extension.pt2"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(renamed, "w") as new:
            for name in old.namelist():
                new.writestr(
                    name, old.read(name).replace(b"torch.ops.aten.relu.default", b"torch.ops.ours.relu.default")
                )
        with pytest.raises(InvalidInput, match=r"no operator ours\.relu\.default"):
            onnx_from_pt2(renamed, tmp_path / "cnn.onnx")

    def test_a_conversion_that_takes_too_long_is_stopped(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2")
        with pytest.raises(Unsupported, match=r"stopped after 0\.05 seconds"):
            onnx_from_pt2(source, tmp_path / "cnn.onnx", timeout_seconds=0.05)
        assert not (tmp_path / "cnn.onnx").exists()

    def test_a_target_that_cannot_be_written_is_named(self, tmp_path: Path) -> None:
        source, _ = saved_cnn(tmp_path / "cnn.pt2")
        with pytest.raises(InvalidInput, match=r"nowhere.*cannot be written"):
            onnx_from_pt2(source, tmp_path / "nowhere" / "cnn.onnx")
