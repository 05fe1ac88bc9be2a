from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizer.candidates import (
    int8_candidate,
    int8_refusal,
    place,
    precision_of,
    rewritten_candidate,
    source_candidate,
)
from optimizer.data.dataset import DataSet
from optimizer.graph.graph import Graph, load_graph


def test_source_and_rewritten_graph_are_saved_under_their_names(small_graph: Graph, tmp_path: Path) -> None:
    source, rewritten = source_candidate(small_graph, tmp_path), rewritten_candidate(small_graph, tmp_path)
    assert (source.name, rewritten.name, source.precision) == ("source", "fp32", "fp32")
    assert source.path is not None
    assert source.path != rewritten.path
    assert source.size_bytes == source.path.stat().st_size


def test_int8_is_calibrated_and_smaller_in_its_weights(small_graph: Graph, small_data: Path, tmp_path: Path) -> None:
    found = int8_candidate(small_graph, DataSet([small_data], small_graph.inputs, True, 0), tmp_path)
    assert found.path is not None
    weights = [numpy_helper.to_array(tensor) for tensor in load_graph(found.path).model.graph.initializer]
    assert any(array.dtype == np.int8 and array.ndim == 2 for array in weights)


def test_without_data_int8_is_declined_and_says_what_is_needed(small_graph: Graph, tmp_path: Path) -> None:
    found = int8_candidate(small_graph, None, tmp_path)
    assert (found.path, found.size_bytes) == (None, None)
    assert found.declined == "ranges must be calibrated on real rows: give --data"


def test_without_calibration_rows_int8_is_declined(small_graph: Graph, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"validation/x": np.zeros((3, 4), np.float32)})  # type: ignore[arg-type]
    data = DataSet([tmp_path / "a.npz"], small_graph.inputs, True, 0)
    assert int8_refusal(small_graph, data) == "the data has no calibration rows"


def test_the_precision_is_that_of_most_weights(small_graph: Graph) -> None:
    model = small_graph.copy()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    assert precision_of(Graph(model)) == "fp16"
    assert precision_of(Graph(onnx.ModelProto())) == "fp32"


def test_placing_copies_the_file(small_graph: Graph, tmp_path: Path) -> None:
    source = source_candidate(small_graph, tmp_path)
    place(source, tmp_path / "fallback.onnx")
    assert load_graph(tmp_path / "fallback.onnx").fingerprint() == small_graph.fingerprint()


def test_weights_beside_the_file_follow_under_its_new_name(
    small_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_graph.copy()
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1000, np.float32), "large"))
    graph = Graph(model)
    source = source_candidate(graph, tmp_path)
    assert source.path is not None
    graph.save(source.path, inline_limit_bytes=0)
    monkeypatch.setattr(Graph.save, "__defaults__", (0,))
    (tmp_path / "version").mkdir()
    place(source, tmp_path / "version" / "fallback.onnx")
    source.path.with_name("model.onnx.data").unlink()
    assert load_graph(tmp_path / "version" / "fallback.onnx").parameter_count == graph.parameter_count
