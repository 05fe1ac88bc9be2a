"""The half of the builder that is for `tensorrt`, against a fake of its documented names: it never met the library."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from enginehouse.cuda_driver import CudaDriver
from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra, NotSupported, Unsupported
from optimizer.build.open_artifact import Artifact, open_artifact
from optimizer.build.tensorrt_build import PlanRequest, build_plan, plan_target, targets_in_plan
from optimizer.graph.graph import Graph
from tests.tensorrt_builder_fakes import Told, fake_tensorrt
from tests.tensorrt_fakes import FakeCuda, fake_plan


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """A machine with a GPU of compute capability 8.6 and the fake library."""
    told, cuda = Told(), FakeCuda((8, 6))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(cuda, told))
    monkeypatch.setattr("optimizer.build.tensorrt_build.open_driver", lambda _: CudaDriver(cuda))
    return told


@pytest.fixture
def told_rtx(told: Told, monkeypatch: pytest.MonkeyPatch) -> Told:
    """The same machine with the other library."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(FakeCuda((8, 6)), told, "tensorrt_rtx"))
    return told


def half_graph(*operators: str, element_type: int = TensorProto.FLOAT16) -> Graph:
    """A product named `mm`, and the operators after it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["v0"], name="mm")]
    nodes += [helper.make_node(name, [f"v{i}"], [f"v{i + 1}"]) for i, name in enumerate(operators)]
    value = helper.make_tensor_value_info("x", element_type, ["n", 3])
    output = helper.make_tensor_value_info(f"v{len(operators)}", element_type, None)
    weight = helper.np_dtype_to_tensor_dtype(np.dtype(np.float16))
    graph = helper.make_graph(
        nodes, "g", [value], [output], [helper.make_tensor("w", weight, [3, 3], np.eye(3).ravel())]
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def request(graph: Graph | None = None, capability: str = "8.6", **options: Any) -> PlanRequest:
    library = options.pop("library", "tensorrt")
    return PlanRequest(graph or half_graph("Relu"), library, capability, (1, 4, 8), **options)


def test_a_plan_is_written_and_read_back_through_the_inspector(told: Told, tmp_path: Path) -> None:
    proof = build_plan(request(), tmp_path / "model.plan")
    assert (tmp_path / "model.plan").read_bytes().startswith(b"FAKEPLAN")
    assert proof.layer_share == {"fp16": 1.0}
    assert proof.layers[0].source_nodes == ("mm", "relu")
    assert told.profiles == [{"x": ((1, 3), (4, 3), (8, 3))}]
    assert told.cleared == ["TF32"]
    assert (told.flags, told.level) == ([], None)


def test_compatibility_is_asked_for_by_the_names_of_the_library(told: Told, tmp_path: Path) -> None:
    build_plan(request(version_compatible=True, hardware_compatible=True), tmp_path / "model.plan")
    assert told.flags == ["VERSION_COMPATIBLE"]
    assert told.level.name == "AMPERE_PLUS"


def test_kernels_that_were_measured_are_kept_for_the_next_build(told: Told, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        build_plan(request(timing_cache=cache), tmp_path / "model.plan")
    assert told.caches_read == [b"", b"measured;"]
    assert cache.read_bytes() == b"measured;measured;"


def test_a_cache_of_another_gpu_is_replaced(told: Told, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    cache.write_bytes(b"another gpu;")
    told.refuses_cache = True
    build_plan(request(timing_cache=cache), tmp_path / "model.plan")
    assert cache.read_bytes() == b"measured;"


def test_a_plan_for_another_gpu_than_the_one_that_is_there_is_refused(told: Told, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has compute capability 8\.6; asked for was 9\.0.*with tensorrt-rtx"):
        build_plan(request(capability="9.0"), tmp_path / "model.plan")


def test_a_machine_without_a_gpu_is_told_that_the_library_needs_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("enginehouse.cuda_driver._LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(NotSupported, match="building a plan with TensorRT needs an NVIDIA GPU"):
        build_plan(request(), tmp_path / "model.plan")


def test_a_missing_library_names_its_extra(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt\]"):
        build_plan(request(), tmp_path / "model.plan")


def test_a_builder_that_does_not_come_up_is_an_engine_that_failed(told: Told, tmp_path: Path) -> None:
    told.has_builder = False
    with pytest.raises(EngineFailed, match="TensorRT makes no builder on this machine: no device"):
        build_plan(request(), tmp_path / "model.plan")


def test_nodes_that_it_cannot_build_are_all_named(told: Told, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"Det 'Det_1': TensorRT has no Det; Det 'Det_3': TensorRT has no Det\."):
        build_plan(request(half_graph("Det", "Relu", "Det")), tmp_path / "model.plan")


def test_a_type_that_it_would_change_without_a_word_is_refused(told: Told, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"input 'x': TensorRT has no FP64; it has FP32.*output 'v0'"):
        build_plan(request(half_graph(element_type=TensorProto.DOUBLE)), tmp_path / "model.plan")


def test_a_build_that_fails_leaves_what_was_there(told: Told, tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    path.write_bytes(b"before")
    told.builds = False
    with pytest.raises(EngineFailed, match=r"for compute capability 8\.6: Error Code 10: no implementation"):
        build_plan(request(), path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_plan_that_nobody_can_read_back_is_not_written(told: Told, tmp_path: Path) -> None:
    told.layers = []
    with pytest.raises(EngineFailed, match="lists none of its layers"):
        build_plan(request(), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


def test_rtx_is_told_its_target_and_never_meets_a_timing_cache(told_rtx: Told, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    build_plan(request(library="tensorrt-rtx", timing_cache=cache), tmp_path / "model.plan")
    assert told_rtx.targets == {0: "SM86"}
    assert not told_rtx.caches_read
    assert not cache.exists()


def test_rtx_takes_later_gpus_along_where_that_is_asked(told_rtx: Told, tmp_path: Path) -> None:
    build_plan(request(library="tensorrt-rtx", hardware_compatible=True), tmp_path / "model.plan")
    assert told_rtx.targets == {0: "SM86", 1: "SM120"}


def test_a_plan_that_its_own_library_calls_malformed_is_not_written(told_rtx: Told, tmp_path: Path) -> None:
    told_rtx.plan = b"garbled"
    with pytest.raises(EngineFailed, match="calls malformed itself"):
        build_plan(request(library="tensorrt-rtx"), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


def test_a_plan_that_was_compiled_for_another_gpu_is_not_written(told_rtx: Told, tmp_path: Path) -> None:
    told_rtx.plan = fake_plan() + b"accelerators={sm120 }"
    with pytest.raises(EngineFailed, match=r"asked for compute capability 8\.6 and compiled for 12\.0"):
        build_plan(request(library="tensorrt-rtx"), tmp_path / "model.plan")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("capability", ["sm_86", "86", "8.66", ""])
def test_a_compute_capability_that_is_none_is_refused(capability: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"is not understood; expected one as 8\.9"):
        build_plan(request(capability=capability), tmp_path / "model.plan")


def test_the_target_of_a_plan_is_one_release_on_one_kind_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizer.build.tensorrt_build.library_version", lambda _: ("tensorrt", "11.4.0"))
    target = plan_target(request(capability="12.0"))
    assert (target.name, target.compute_capability) == ("sm_120", "12.0")
    assert (target.libraries, target.is_measured) == ({"tensorrt": "11.4.0"}, False)
    assert plan_target(request(version_compatible=True)).libraries == {}


def test_a_plan_says_what_it_was_compiled_for() -> None:
    assert targets_in_plan(b"..accelerators={sm86 sm120 }..accelerators={*}..") == {"8.6", "12.0"}
    assert targets_in_plan(b"nothing of the kind") == frozenset()


def test_the_callers_graph_is_left_as_it_was(told: Told, tmp_path: Path) -> None:
    graph = half_graph("Relu")
    build_plan(request(graph), tmp_path / "model.plan")
    assert [node.name for node in graph.model.graph.node] == ["mm", ""]


def test_an_artifact_is_opened_with_the_library_that_built_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtra, match="tensorrt-rtx"):
        open_artifact(Artifact(tmp_path / "model.plan", "tensorrt-rtx"), threads=1)
