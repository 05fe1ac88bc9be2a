"""The door to ONNX Runtime: every element type, and every way in which opening or running can go wrong."""

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from enginehouse.dtype import DTYPES, Array, DType
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra, NotSupported
from enginehouse.onnxruntime_engine import (
    CPU_PROVIDER,
    OPTIMIZED_FILE,
    OnnxRuntimeEngine,
    check_one_distribution,
)

IdentityModel = Callable[..., onnx.ModelProto]
CUDA = "CUDAExecutionProvider"


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def save(model: onnx.ModelProto) -> Path:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return path

    return save


Saved = Callable[[onnx.ModelProto], Path]


def sample(dtype: DType) -> Array:
    if dtype.name == "BYTES":
        return np.array([["a", "ä", ""], ["x", "y", "z" * 300]], dtype=object)
    values = np.array([[0, 1, 2], [3, 4, 5]])
    return (values % 2).astype(np.bool_) if dtype.name == "BOOL" else values.astype(dtype.numpy)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_type_goes_through_unchanged(identity_model: IdentityModel, saved: Saved, dtype: DType) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model(dtype.onnx_code)))
    assert engine.inputs[0].dtype is engine.outputs[0].dtype is dtype
    assert engine.inputs[0].shape == (-1, 3)
    array = sample(dtype)
    output = engine.run({"INPUT0": array})["OUTPUT0"]
    assert output.dtype == dtype.numpy
    assert output.tolist() == array.tolist()
    assert engine.run({"INPUT0": array[:0]})["OUTPUT0"].shape == (0, 3)


def make_mixed_model(types: Mapping[str, int]) -> onnx.ModelProto:
    shapes: dict[str, list[int | str]] = {name: ["n", 2] if name == "half" else [] for name in types}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in types],
        "mixed",
        [helper.make_tensor_value_info(name, code, shapes[name]) for name, code in types.items()],
        [helper.make_tensor_value_info(f"{name}_out", code, shapes[name]) for name, code in types.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_bf16_runs_beside_other_types_from_any_memory(saved: Saved) -> None:
    types = {"half": TensorProto.BFLOAT16, "whole": TensorProto.INT64, "one": TensorProto.BFLOAT16}
    engine = OnnxRuntimeEngine(saved(make_mixed_model(types)))
    half = np.arange(4).reshape(2, 2).astype(DTYPES["BF16"].numpy).T
    feeds = {"half": half, "whole": np.array(5), "one": np.array(7, DTYPES["BF16"].numpy)}
    outputs = engine.run(feeds)
    assert outputs["half_out"].tolist() == half.tolist()
    assert outputs["whole_out"] == 5
    assert outputs["one_out"].shape == ()


def test_bf16_beside_text_is_refused_when_opened_not_at_each_request(saved: Saved) -> None:
    with pytest.raises(NotSupported, match="BF16 tensors and BYTES inputs"):
        OnnxRuntimeEngine(saved(make_mixed_model({"half": TensorProto.BFLOAT16, "word": TensorProto.STRING})))


def test_text_may_be_str_or_utf_8_bytes_and_nothing_else(identity_model: IdentityModel, saved: Saved) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model(TensorProto.STRING)))
    array = np.array([["a", "ä".encode(), np.str_("c")]], dtype=object)
    assert engine.run({"INPUT0": array})["OUTPUT0"].tolist() == [["a", "ä", "c"]]
    with pytest.raises(InvalidInput, match="input 'INPUT0' holds bytes that are not UTF-8"):
        engine.run({"INPUT0": np.array([[b"\xff", b"", b""]], dtype=object)})


@pytest.mark.parametrize("code", [TensorProto.FLOAT, TensorProto.BFLOAT16, TensorProto.STRING])
def test_a_missing_feed_is_named(identity_model: IdentityModel, saved: Saved, code: int) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model(code)))
    with pytest.raises(InvalidInput, match="missing tensor 'INPUT0'; the engine was given OTHER"):
        engine.run({"OTHER": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize("array", [np.zeros((1, 4), np.float32), np.zeros((1, 3), np.int64)])
def test_what_the_library_refuses_is_an_engine_failure(
    identity_model: IdentityModel, saved: Saved, array: Array
) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model()))
    with pytest.raises(EngineFailed, match="ONNX Runtime failed: "):
        engine.run({"INPUT0": array})
    assert engine.run({"INPUT0": np.zeros((1, 3), np.float32)})["OUTPUT0"].shape == (1, 3)


def test_a_closed_engine_says_so(identity_model: IdentityModel, saved: Saved) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model()))
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({"INPUT0": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineFailed, match=r"cannot open model\.onnx"):
        OnnxRuntimeEngine(path)


def test_an_output_that_is_no_tensor_cannot_be_served(saved: Saved) -> None:
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    sequence = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("SequenceConstruct", ["x"], ["y"])], "sequence", [tensor], [sequence])
    path = saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    with pytest.raises(InvalidInput, match="only tensors can"):
        OnnxRuntimeEngine(path)


def test_unoptimized_computes_the_graph_as_it_is_written(
    identity_model: IdentityModel, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[object] = []
    real = onnxruntime.InferenceSession

    def watched(path: str, options: Any, providers: list[Any]) -> Any:
        levels.append(options.graph_optimization_level)
        assert options.intra_op_num_threads == 2
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        return real(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    path = saved(identity_model())
    for optimize in (True, False):
        OnnxRuntimeEngine(path, threads=2, optimize=optimize)
    disabled = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert levels[0] != disabled
    assert levels[1] == disabled


@pytest.mark.parametrize(("provider", "extra"), [(CUDA, "gpu"), ("TensorrtExecutionProvider", "gpu"), ("Other", "cpu")])
def test_a_provider_that_is_not_installed_names_the_extra(
    identity_model: IdentityModel, saved: Saved, provider: str, extra: str
) -> None:
    with pytest.raises(NotSupported) as refusal:
        OnnxRuntimeEngine(saved(identity_model()), provider=provider)
    assert CPU_PROVIDER in str(refusal.value)
    assert f"enginehouse[{extra}]" in str(refusal.value)


def test_a_provider_that_is_listed_but_silently_not_used_is_an_error(
    identity_model: IdentityModel, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnxruntime.InferenceSession

    def falls_back(path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> Any:
        assert providers == [(CUDA, {"device_id": "0"})]
        return real(path, options, providers=[CPU_PROVIDER])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU_PROVIDER])
    monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
    with pytest.raises(NotSupported, match=f"{CUDA} was asked for and ONNX Runtime silently used {CPU_PROVIDER}"):
        OnnxRuntimeEngine(saved(identity_model()), provider=CUDA, provider_options={"device_id": "0"})


@pytest.mark.parametrize(("provider", "extra"), [(CPU_PROVIDER, "cpu"), (CUDA, "gpu")])
def test_a_missing_library_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provider: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match=rf"enginehouse\[{extra}\]"):
        OnnxRuntimeEngine(tmp_path / "model.onnx", provider=provider)


def test_foreign_exceptions_of_the_process_are_not_swallowed(identity_model: IdentityModel, saved: Saved) -> None:
    class Interrupted:
        def run(self, *_: object) -> object:
            raise MemoryError

    engine = OnnxRuntimeEngine(saved(identity_model()))
    engine._session = Interrupted()
    with pytest.raises(MemoryError):
        engine.run({"INPUT0": np.zeros((1, 3), np.float32)})


@pytest.mark.parametrize(
    ("installed", "is_refused"),
    [(("onnxruntime", "onnxruntime-gpu"), True), (("onnxruntime",), False), (("onnxruntime-gpu",), False), ((), False)],
)
def test_both_distributions_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], is_refused: bool
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    if not is_refused:
        check_one_distribution()
        return
    with pytest.raises(NotSupported, match="onnxruntime and onnxruntime-gpu are both installed"):
        check_one_distribution()


def test_both_distributions_are_refused_before_the_library_is_first_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two was unpacked last would be imported, so it must not come so far."""
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(metadata, "version", lambda _: "1.0")
    with pytest.raises(NotSupported, match="both installed and overwrite each other"):
        OnnxRuntimeEngine(tmp_path / "model.onnx")
    assert "onnxruntime" not in sys.modules


def test_a_profile_and_the_optimized_graph_are_left_in_the_folder(
    tmp_path: Path, identity_model: IdentityModel, saved: Saved
) -> None:
    engine = OnnxRuntimeEngine(saved(identity_model()), profile_into=tmp_path)
    engine.run({"INPUT0": np.zeros((1, 3), np.float32)})
    times = engine.end_profile()
    assert times.parent == tmp_path
    assert b"kernel_time" in times.read_bytes()
    assert onnx.load(tmp_path / OPTIMIZED_FILE).graph.output[0].name == "OUTPUT0"


@pytest.mark.parametrize("dtype", ["FP32", "BF16", "BYTES"])
def test_an_input_that_the_graph_has_a_value_for_may_be_left_out(saved: Saved, dtype: str) -> None:
    code = DTYPES[dtype].onnx_code
    inputs = [helper.make_tensor_value_info(name, code, ["batch"]) for name in ("switch", "value")]
    inputs[0] = helper.make_tensor_value_info("switch", TensorProto.INT64, ["batch"])
    value: list[Any] = [b"kept"] if dtype == "BYTES" else [5.0]
    kept = helper.make_tensor("value", code, [1], value)
    node = helper.make_node("Gather", ["value", "switch"], ["picked"])
    outputs = [helper.make_tensor_value_info("picked", code, ["batch"])]
    graph = helper.make_graph([node], "optional", inputs, outputs, [kept])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    engine = OnnxRuntimeEngine(saved(model))
    assert [spec.name for spec in engine.inputs] == ["switch"]
    assert [(spec.name, spec.dtype.name, spec.shape) for spec in engine.optional_inputs] == [("value", dtype, (-1,))]
    own = sample(DTYPES[dtype]).ravel()[1:3]
    switch = np.array([1], np.int64)
    assert engine.run({"switch": switch * 0})["picked"].tolist() == (["kept"] if dtype == "BYTES" else [5.0])
    assert engine.run({"switch": switch, "value": own})["picked"].tolist() == own[1:].tolist()
