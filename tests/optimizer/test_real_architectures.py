"""Whole networks of 2017, which come with the onnx package: old opsets, a fixed batch, weights made by nodes."""

from pathlib import Path

import onnx
import pytest

from optimizer.data.synthetic import synthetic_feeds
from optimizer.importers.onnx_importer import import_onnx
from optimizer.rewrite import rewrite

MODELS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


@pytest.mark.parametrize(
    ("name", "operators"),
    [("squeezenet", {"Conv": 26, "Relu": 26}), ("shufflenet", {"Conv": 49, "BatchNormalization": 0})],
)
def test_network_is_opened_for_batches_and_rewritten(name: str, operators: dict[str, int]) -> None:
    graph = import_onnx(MODELS / f"light_{name}.onnx", open_batch=True)
    assert graph.batch_axis_open
    feeds = [synthetic_feeds(graph.inputs, rows, batch_axis_open=True, seed=rows) for rows in (1, 2)]
    result, records = rewrite(graph, feeds)
    assert [(record.name, record.detail) for record in records if record.outcome == "dropped"] == []
    assert {name: result.op_counts().get(name, 0) for name in operators} == operators
    assert (result.inputs, result.outputs) == (graph.inputs, graph.outputs)
