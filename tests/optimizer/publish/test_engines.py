"""The engines of a version come to lie under their names, with their weights, and with samples that they can answer."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.engine import Engine
from enginehouse.evidence import EngineProof, TargetRecord
from enginehouse.onnxruntime_engine import CPU_PROVIDER, OnnxRuntimeEngine
from optimizer.graph.graph import Graph, load_graph
from optimizer.publish.engines import BuiltEngine, lay_out, place
from tests.optimizer.conftest import small_classifier, small_rows

FEEDS = {"x": small_rows(4, 1)}


def built(path: Path, file: str = "model.onnx", role: Any = "chosen", **fields: Any) -> BuiltEngine:
    return BuiltEngine(
        **{
            "file": file,
            "source_path": path,
            "role": role,
            "platform": "onnxruntime_onnx",
            "provider": CPU_PROVIDER,
            "precision": "fp32",
            "candidate": "fp32",
            "settings": {},
            "target": TargetRecord(),
            "engine": OnnxRuntimeEngine(path) if path.suffix == ".onnx" else None,
            **fields,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "version"
    made.mkdir()
    return made


@pytest.fixture
def original(small_model: Path) -> Engine:
    return OnnxRuntimeEngine(small_model)


def test_every_engine_has_its_file_its_record_and_its_samples(
    folder: Path, small_model: Path, original: Engine, tmp_path: Path
) -> None:
    plan = tmp_path / "some.plan"
    plan.write_bytes(b"a plan")
    proof = EngineProof(layers=(), layer_share={"bf16": 1.0})
    target = TargetRecord(compute_capability="8.9", libraries={"tensorrt-rtx": "1.7.1.116"}, is_measured=False)
    engines = [
        built(small_model, speedup=1.5),
        built(
            small_model,
            "model.openvino.onnx",
            "variant",
            platform="openvino",
            precision="fp32",
            settings={"INFERENCE_PRECISION_HINT": "bf16"},
            proof=proof,
        ),
        built(plan, "model.sm89.plan", "variant", platform="tensorrt_plan", precision="fp16", target=target),
        built(small_model, "fallback.onnx", "fallback"),
    ]
    records, golden = lay_out(folder, engines, original, FEEDS, {"fp32": {"scores": 5.0}}, synthetic=True)
    assert [record.file for record in records] == [engine.file for engine in engines]
    assert {path.name for path in folder.iterdir()} == {record.file for record in records} | {"golden.npz"}
    assert (folder / "model.sm89.plan").read_bytes() == b"a plan"
    assert (records[0].speedup, records[1].proof, records[2].target) == (1.5, proof, target)
    assert (records[2].tolerance.built, golden.synthetic) == ({}, True)
    assert records[0].tolerance.original["scores"].atol == pytest.approx(10.0)
    # The hint lowers the precision of a graph whose weights are FP32.
    assert records[1].tolerance.built["scores"].atol == pytest.approx(200 * records[0].tolerance.built["scores"].atol)
    with np.load(folder / "golden.npz") as file:
        assert {name for name in file.files if name.startswith("built/")} == {
            "built/model.onnx/scores",
            "built/model.openvino.onnx/scores",
            "built/fallback.onnx/scores",
        }


def test_weights_beside_a_file_follow_under_its_new_name(tmp_path: Path, folder: Path) -> None:
    graph = Graph(small_classifier())
    onnx.save_model(
        graph.copy(), str(tmp_path / "a.onnx"), save_as_external_data=True, location="odd", size_threshold=0
    )
    place(tmp_path / "a.onnx", folder / "fallback.onnx")
    (tmp_path / "odd").unlink()
    assert load_graph(folder / "fallback.onnx").fingerprint() == graph.fingerprint()


def test_large_weights_lie_beside_the_engine_under_its_name(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_classifier()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1000, np.float32), "large"))
    Graph(model).save(tmp_path / "a.onnx", inline_limit_bytes=0)
    monkeypatch.setattr(Graph.save, "__defaults__", (0,))
    place(tmp_path / "a.onnx", folder / "fallback.onnx")
    assert {path.name for path in folder.iterdir()} == {"fallback.onnx", "fallback.onnx.data"}


def test_a_file_without_weights_beside_it_is_copied_byte_for_byte(small_model: Path, folder: Path) -> None:
    place(small_model, folder / "model.onnx")
    assert (folder / "model.onnx").read_bytes() == small_model.read_bytes()


@pytest.mark.parametrize("roles", [["chosen"], ["chosen", "chosen", "fallback"], ["fallback", "variant"]])
def test_a_version_has_one_chosen_engine_and_one_fallback(
    folder: Path, small_model: Path, original: Engine, roles: list[str]
) -> None:
    engines = [built(small_model, f"{number}.onnx", role) for number, role in enumerate(roles)]
    with pytest.raises(AssertionError):
        lay_out(folder, engines, original, FEEDS, {}, synthetic=True)


def test_two_engines_never_share_a_name(folder: Path, small_model: Path, original: Engine) -> None:
    engines = [built(small_model), built(small_model, role="fallback")]
    with pytest.raises(AssertionError, match="two engines under one name"):
        lay_out(folder, engines, original, FEEDS, {}, synthetic=True)
