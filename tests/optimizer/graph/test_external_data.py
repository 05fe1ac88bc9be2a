import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.errors import InvalidInput
from optimizer.graph.external_data import tensors_of
from optimizer.graph.graph import load_graph

SECRET = np.arange(8, dtype=np.float32)


def _model(folder: Path, location: str, **more: str) -> Path:
    """A model in `folder` whose weight says that it lies at `location`."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[N,8] x) => (float[N,8] y) { y = Add(x, W) }'
    )
    weight = onnx.TensorProto(name="W", data_type=onnx.TensorProto.FLOAT, dims=[8])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model's own folder, with a file of weights in it and another one outside."""
    own = tmp_path / "model"
    (own / "sub").mkdir(parents=True)
    for path in (own / "weights.bin", own / "sub" / "weights.bin", tmp_path / "secret.bin"):
        path.write_bytes(SECRET.tobytes())
    return own


@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin", "./weights.bin"])
def test_weights_in_the_models_own_folder_are_read(location: str, folder: Path) -> None:
    (weight,) = load_graph(_model(folder, location)).model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weight), SECRET)


def test_folder_may_be_given_by_a_relative_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model(folder, "weights.bin")
    monkeypatch.chdir(folder)
    assert load_graph(Path("model.onnx")).parameter_count == 8


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../../secret.bin", "sub/../weights.bin", "/etc/hostname", "C:\\secret.bin", "", ".", ".."],
)
def test_location_outside_the_folder_is_refused(location: str, folder: Path) -> None:
    with pytest.raises(InvalidInput, match="not a file inside the model's own folder"):
        load_graph(_model(folder, location))


def test_absolute_path_into_the_folder_is_refused_too(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="own folder"):
        load_graph(_model(folder, str(folder / "weights.bin")))


@pytest.mark.parametrize("through", ["file", "folder"])
def test_link_that_leaves_the_folder_is_refused(through: str, folder: Path) -> None:
    if through == "file":
        (folder / "link.bin").symlink_to(folder.parent / "secret.bin")
    else:
        (folder / "link").symlink_to(folder.parent, target_is_directory=True)
    with pytest.raises(InvalidInput, match="own folder"):
        load_graph(_model(folder, "link.bin" if through == "file" else "link/secret.bin"))


def test_nothing_outside_is_opened_before_it_is_refused(folder: Path) -> None:
    pipe = folder.parent / "pipe"
    os.mkfifo(pipe)  # opening it would wait for ever
    with pytest.raises(InvalidInput, match="own folder"):
        load_graph(_model(folder, "../pipe"))


def test_pipe_inside_the_folder_is_no_file(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(InvalidInput, match="there is no file"):
        load_graph(_model(folder, "pipe"))


def test_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'W' lie at 'gone\.bin', and there is no file"):
        load_graph(_model(folder, "gone.bin"))


@pytest.mark.parametrize(
    "more", [{"length": "64"}, {"offset": "1000"}, {"offset": "-4"}, {"length": "-1"}, {"length": "many"}]
)
def test_range_that_the_file_does_not_have_is_refused(more: dict[str, str], folder: Path) -> None:
    with pytest.raises(InvalidInput):
        load_graph(_model(folder, "weights.bin", **more))


def test_file_that_is_too_short_is_refused(folder: Path) -> None:
    (folder / "weights.bin").write_bytes(b"short")
    with pytest.raises(InvalidInput):
        load_graph(_model(folder, "weights.bin"))


def test_tensors_are_found_wherever_they_lie() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20, "own" : 1]>
    g (float[N] x, bool flag) => (float[N] y) {
        c = Constant<value = float[1] {1.0}>()
        b = own.twice(x)
        y = If(flag) <
            then_branch = first () => (float[N] t) { k = Constant<value = float[1] {2.0}>() t = Mul(b, k) },
            else_branch = second () => (float[N] e) { e = Mul(b, c) }
        >
    }
    <domain: "own", opset_import: ["" : 20]>
    twice (x) => (y) { two = Constant<value = float[1] {3.0}>() y = Mul(x, two) }
    """
    model = onnx.parser.parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array([4], np.float32), "W"))
    found = sorted(float(numpy_helper.to_array(tensor)[0]) for tensor in tensors_of(model))
    assert found == [1, 2, 3, 4]
