"""The door to OpenVINO, with a planted library: what it is asked for, and how its words are translated."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from enginehouse.errors import EngineFailed, InvalidInput, MissingExtra
from enginehouse.openvino_engine import OpenVinoEngine


class Port:
    def __init__(self, name: str, kind: str, shape: list[int]) -> None:
        self.name, self.kind, self.shape = name, kind, shape

    def get_any_name(self) -> str:
        return self.name

    def get_element_type(self) -> Any:
        return SimpleNamespace(get_type_name=lambda: self.kind)

    def get_partial_shape(self) -> list[Any]:
        return [SimpleNamespace(is_static=size >= 0, get_length=lambda size=size: size) for size in self.shape]


class Compiled:
    def __init__(self, kind: str) -> None:
        self.inputs = [Port("x", kind, [-1, 3])]
        self.outputs = [Port("y", kind, [-1, 3])]

    def __call__(self, feeds: dict[str, Any], share_inputs: bool) -> list[Any]:
        assert share_inputs
        if feeds["x"].shape[1] != 3:
            raise RuntimeError("wrong shape")
        return [feeds["x"] + 1]


Plant = Callable[..., list[tuple[str, str, dict[str, object]]]]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Plant:
    def planted(kind: str = "f32", failure: str = "") -> list[tuple[str, str, dict[str, object]]]:
        calls: list[tuple[str, str, dict[str, object]]] = []

        def compile_model(path: str, device: str, settings: dict[str, object]) -> Compiled:
            calls.append((path, device, settings))
            if failure:
                raise RuntimeError(failure)
            return Compiled(kind)

        library = SimpleNamespace(Core=lambda: SimpleNamespace(compile_model=compile_model))
        monkeypatch.setitem(sys.modules, "openvino", library)
        return calls

    return planted


def test_it_computes_in_the_precision_of_the_graph_on_the_threads_it_is_given(plant: Plant) -> None:
    calls = plant()
    engine = OpenVinoEngine(Path("m/model.xml"), threads=3)
    assert calls[0][:2] == ("m/model.xml", "CPU")
    assert calls[0][2] == {
        "INFERENCE_NUM_THREADS": 3,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    assert str(engine.inputs[0]) == "x FP32 [-1, 3]"
    assert engine.run({"x": np.ones((1, 3), np.float32)})["y"].tolist() == [[2, 2, 2]]


def test_failures_are_translated_where_they_enter(plant: Plant) -> None:
    plant()
    engine = OpenVinoEngine(Path("model.xml"))
    with pytest.raises(EngineFailed, match="OpenVINO failed: wrong shape"):
        engine.run({"x": np.ones((1, 4), np.float32)})
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({})
    plant(failure="no such file")
    with pytest.raises(EngineFailed, match=r"OpenVINO cannot open model\.xml: no such file"):
        OpenVinoEngine(Path("model.xml"))


def test_an_element_type_without_a_counterpart_is_refused(plant: Plant) -> None:
    plant("u4")
    with pytest.raises(InvalidInput, match="OpenVINO element type u4"):
        OpenVinoEngine(Path("model.xml"))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[openvino\]"):
        OpenVinoEngine(Path("model.xml"))
