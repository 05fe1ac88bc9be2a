"""The door to OpenVINO, with the real library: names, memory, precision hints, and how its words are translated."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.openvino_engine import OpenVinoEngine, compile_model, reason

pytest.importorskip("openvino", reason="the extra openvino is not installed")

IdentityModel = Callable[..., onnx.ModelProto]
Matrix = NDArray[np.float32]


def save(path: Path, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], code: int = TensorProto.FLOAT) -> Path:
    """A model from `x` [n, 3] to outputs of the same shape."""
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", code, ["n", 3])],
        [helper.make_tensor_value_info(name, code, ["n", 3]) for name in outputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.fixture
def forked(tmp_path: Path) -> Path:
    """Three outputs: two names of one tensor, which a third name inside precedes, and the input itself."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Identity", ["a"], ["z"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["x"], ["c"]),
    ]
    return save(tmp_path / "forked.onnx", nodes, ["z", "b", "c"])


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """The input's rows times a matrix that BF16 cannot hold exactly."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [onnx.numpy_helper.from_array(weights(), "w")],
    )
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def weights() -> Matrix:
    return np.random.default_rng(3).standard_normal((64, 64)).astype(np.float32)


def rows(count: int = 2) -> Matrix:
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3) - 2


def test_outputs_have_the_names_of_the_file_whatever_else_the_tensor_is_called(forked: Path) -> None:
    engine = OpenVinoEngine(forked)
    assert [str(spec) for spec in engine.inputs] == ["x FP32 [-1, 3]"]
    assert [spec.name for spec in engine.outputs] == ["z", "b", "c"]
    answer = engine.run({"x": rows()})
    for name in ("z", "b"):
        np.testing.assert_array_equal(answer[name], np.maximum(rows(), 0))
    np.testing.assert_array_equal(answer["c"], rows())


def test_outputs_are_the_callers_own_and_inputs_stay_as_they_were(forked: Path) -> None:
    engine = OpenVinoEngine(forked)
    given = rows()
    first = engine.run({"x": given})
    engine.run({"x": given + 100})
    given += 7
    np.testing.assert_array_equal(first["z"], np.maximum(rows(), 0))
    np.testing.assert_array_equal(first["c"], rows())
    np.testing.assert_array_equal(given, rows() + 7)


def test_inputs_may_be_read_only_strided_or_empty(forked: Path) -> None:
    engine = OpenVinoEngine(forked)
    frozen = rows()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(engine.run({"x": frozen})["c"], rows())
    np.testing.assert_array_equal(engine.run({"x": np.asfortranarray(rows(5))})["c"], rows(5))
    np.testing.assert_array_equal(engine.run({"x": rows(6)[::2]})["c"], rows(6)[::2])
    assert engine.run({"x": rows(0)})["c"].shape == (0, 3)


@pytest.mark.parametrize(
    "code",
    [
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.INT64,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
    ],
)
def test_values_come_back_in_their_type(tmp_path: Path, code: int) -> None:
    engine = OpenVinoEngine(save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], ["y"], code))
    array = np.array([[0, 1, 1]]).astype(engine.inputs[0].dtype.numpy)
    answer = engine.run({"x": array})["y"]
    assert answer.dtype == array.dtype
    np.testing.assert_array_equal(answer, array)


def test_a_scalar_stays_one(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "x"], ["y"])],
        "square",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    answer = OpenVinoEngine(tmp_path / "m.onnx").run({"x": np.array(3, np.float32)})["y"]
    assert answer.shape == ()
    assert answer == 9


def test_it_computes_in_fp32_unless_told_otherwise(product: Path) -> None:
    """Left alone, OpenVINO would compute in BF16 on many a CPU; eight bits of mantissa would show."""
    x = np.random.default_rng(4).standard_normal((16, 64)).astype(np.float32)
    np.testing.assert_allclose(OpenVinoEngine(product).run({"x": x})["y"], x @ weights(), atol=1e-4)


@pytest.mark.parametrize("hint", ["f32", "bf16", "f16"])
def test_the_hint_and_the_threads_are_always_told(product: Path, monkeypatch: pytest.MonkeyPatch, hint: str) -> None:
    told: list[dict[str, object]] = []

    def watched(path: Path, settings: dict[str, object]) -> object:
        told.append(settings)
        return compile_model(path, settings)

    monkeypatch.setattr("enginehouse.openvino_engine.compile_model", watched)
    OpenVinoEngine(product, 2, hint, {"NUM_STREAMS": "1", "INFERENCE_PRECISION_HINT": "undefined"})
    assert told == [
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": 2,
            "INFERENCE_PRECISION_HINT": hint,
        }
    ]


def test_a_missing_or_mistyped_feed_is_named(forked: Path) -> None:
    engine = OpenVinoEngine(forked)
    engine.run({"x": rows()})
    with pytest.raises(InvalidInput, match="missing tensor 'x'; the engine was given other"):
        engine.run({"other": rows()})
    with pytest.raises(EngineFailed, match="input 'x' is float64, the model takes float32"):
        engine.run({"x": rows().astype(np.float64)})


def test_failures_are_translated_where_they_enter(forked: Path) -> None:
    engine = OpenVinoEngine(forked)
    with pytest.raises(EngineFailed, match=r"OpenVINO failed: .*shape"):
        engine.run({"x": np.ones((1, 4), np.float32)})
    assert engine.run({"x": rows()})["z"].shape == (2, 3)
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({"x": rows()})


@pytest.mark.parametrize(
    ("hint", "options", "words"),
    [("f64", {}, "Wrong value f64"), ("f32", {"NUM_STREAMSX": "1"}, "Unsupported property NUM_STREAMSX")],
)
def test_what_openvino_does_not_take_is_said_in_its_words(
    forked: Path, hint: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(EngineFailed, match=rf"OpenVINO cannot open forked\.onnx: .*{words}") as refusal:
        OpenVinoEngine(forked, precision_hint=hint, options=options)
    assert "Exception from" not in str(refusal.value)


def test_its_list_of_source_files_is_left_out() -> None:
    problem = RuntimeError("Exception from src/a.cpp:1:\nException from src/b.cpp:2:\nwhat was wrong\nand where\n")
    assert reason(problem) == "what was wrong and where"


@pytest.mark.parametrize("content", [b"not a model", None])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineFailed, match=r"OpenVINO cannot open model\.onnx"):
        OpenVinoEngine(path)


@pytest.mark.parametrize("code", [TensorProto.BFLOAT16, TensorProto.STRING])
def test_an_element_type_without_a_counterpart_is_refused(
    tmp_path: Path, identity_model: IdentityModel, code: int
) -> None:
    onnx.save(identity_model(code), tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match=r"m\.onnx has a tensor of OpenVINO's type (bf16|string)"):
        OpenVinoEngine(tmp_path / "m.onnx")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[openvino\]"):
        OpenVinoEngine(Path("model.xml"))


def test_what_it_runs_can_be_asked_for(product: Path) -> None:
    engine = OpenVinoEngine(product, options={"PERF_COUNT": "YES"})
    engine.run({"x": np.ones((2, 64), np.float32)})
    nodes = {node["name"]: node for node in engine.runtime_nodes()}
    ran = engine.node_times()
    (product_name,) = [name for name, node in nodes.items() if node["layerType"] == "FullyConnected"]
    assert nodes[product_name]["runtimePrecision"] == "f32"
    assert product_name in ran
    assert set(ran) <= set(nodes)
