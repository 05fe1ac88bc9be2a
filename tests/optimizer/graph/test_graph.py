from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.graph.graph import Graph, load_graph

TEXT = "(float[N,3] x) => (float[N,3] y) { a = Add(x, W) y = Relu(a) }"


def _graph(text: str = TEXT, opset: int = 20) -> Graph:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]> g {text}')
    model.graph.initializer.append(numpy_helper.from_array(np.arange(3, dtype=np.float32), "W"))
    return Graph(model)


def test_interface_is_read_with_open_dimensions() -> None:
    graph = _graph("(float[N,3] x, int64 n, string[2] s) => (float[N,?] y) { y = Relu(x) }")
    assert graph.inputs == (
        TensorSpec("x", DTYPES["FP32"], (-1, 3)),
        TensorSpec("n", DTYPES["INT64"], ()),
        TensorSpec("s", DTYPES["BYTES"], (2,)),
    )
    assert graph.outputs == (TensorSpec("y", DTYPES["FP32"], (-1, -1)),)


def test_weights_listed_as_inputs_are_not_inputs() -> None:
    assert [spec.name for spec in _graph(TEXT.replace(" x)", " x, float[3] W)")).inputs] == ["x"]


def test_sequences_cannot_be_served() -> None:
    graph = _graph("(float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x) }")
    with pytest.raises(InvalidInput, match="'y' is of sequence type"):
        _ = graph.outputs


def test_types_that_the_protocol_lacks_cannot_be_served() -> None:
    graph = _graph("(float8e4m3fn[N,3] x) => (float[N,3] y) { y = Cast<to = 1>(x) }", opset=19)
    with pytest.raises(InvalidInput, match="'x' is FLOAT8E4M3FN, which no client can send or read; cast it"):
        _ = graph.inputs


def test_counts_are_sorted_and_name_foreign_operators_with_their_domain() -> None:
    graph = _graph("(float[N] x) => (float[N] y) { a = com.microsoft.Gelu(x) b = Relu(a) c = Relu(b) y = Abs(c) }")
    assert list(graph.op_counts().items()) == [("Abs", 1), ("Relu", 2), ("com.microsoft.Gelu", 1)]
    assert graph.node_count == 4
    assert graph.parameter_count == 3
    assert graph.opset == 20


@pytest.mark.parametrize(
    ("interface", "is_open"),
    [
        ("(float[N,3] x) => (float[N,3] y)", True),
        ("(float[N,3] x) => (float[?,3] y)", True),
        ("(float[N,3] x) => (float[M,3] y)", False),
        ("(float[1,3] x) => (float[1,3] y)", False),
        ("(float[N,3] x, float k) => (float[N,3] y)", False),
        ("(float[N,3] x, float[N] k) => (float[N,3] y)", True),
        ("(float[N,3] x) => (float y)", False),
    ],
)
def test_batch_axis_is_open_where_all_tensors_share_it(interface: str, is_open: bool) -> None:
    assert _graph(interface + " { y = Relu(x) }").batch_axis_open is is_open


def test_fingerprint_follows_the_weights_and_nothing_else() -> None:
    graph, other = _graph(), _graph()
    assert graph.fingerprint() == other.fingerprint()
    changed = other.copy()
    changed.graph.initializer[0].raw_data = np.ones(3, np.float32).tobytes()
    assert Graph(changed).fingerprint() != graph.fingerprint()


def test_copy_is_the_callers_own() -> None:
    graph = _graph()
    graph.copy().graph.node[0].name = "changed"
    assert graph.model.graph.node[0].name == ""


def test_saved_graph_is_loaded_as_it_was(tmp_path: Path) -> None:
    graph = _graph()
    graph.save(tmp_path / "model.onnx")
    assert load_graph(tmp_path / "model.onnx").fingerprint() == graph.fingerprint()


def test_weights_beyond_the_limit_lie_beside_the_model(tmp_path: Path) -> None:
    model = _graph().copy()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(5000, dtype=np.float32), "V"))
    graph = Graph(model)
    for _ in range(2):  # the second save replaces the first, it does not append
        graph.save(tmp_path / "model.onnx", inline_limit_bytes=1000)
        assert (tmp_path / "model.onnx").stat().st_size < 1000
        assert (tmp_path / "model.onnx.data").stat().st_size >= 20_000
    assert (tmp_path / "model.onnx.data").stat().st_size < 30_000
    assert load_graph(tmp_path / "model.onnx").fingerprint() == graph.fingerprint()
    assert graph.model.graph.initializer[1].HasField("raw_data")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.onnx cannot be read: No such file"):
        load_graph(tmp_path / "gone.onnx")


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_graph(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, this is not a model", b"\x00" * 64, b"PK\x03\x04" + b"\x00" * 40])
def test_other_files_are_no_models(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="damaged or not an ONNX model"):
        load_graph(path)


def test_names_that_are_not_text_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(_graph().model.SerializeToString().replace(b"Relu", b"Rel\xff"))
    with pytest.raises(InvalidInput, match="names that are not text"):
        load_graph(path)
