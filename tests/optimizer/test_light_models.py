"""Models that come with the onnx package as files: whole networks of old opsets, and what PyTorch exported in 2017.

The networks of `light` make their weights by nodes, so folding them makes real sizes: VGG19 becomes 513 MB.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.dtype import Array
from enginehouse.errors import Unsupported
from enginehouse.onnxruntime_engine import OnnxRuntimeEngine
from enginehouse.tensor import Tensors
from optimizer.graph.layers import layers_of, named_graph
from optimizer.importers.import_model import import_model
from optimizer.rewrite import rewrite

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
RTOL, ATOL = 1e-3, 1e-5

# Name to convolutions and dense layers with weights after the rewrite. All weights are one constant, so parallel
# branches of equal shape compute the same and become one: two of inception_v1's 58, five of inception_v2's 70.
LIGHT = {
    "bvlc_alexnet": 8,
    "densenet121": 121,
    "inception_v1": 56,
    "inception_v2": 65,
    "resnet50": 54,
    "shufflenet": 50,
    "squeezenet": 26,
    "vgg19": 19,
    "zfnet512": 8,
}


def _tensor(path: Path) -> Array:
    return numpy_helper.to_array(onnx.load_tensor(str(path)))


def _build_and_run(source: Path, feeds: Tensors | list[Array], folder: Path) -> tuple[int, list[Array]]:
    """The FP32 engine's number of layers and its outputs; feeds without names are in the order of the inputs."""
    graph = import_model(source, folder)
    if isinstance(feeds, list):
        feeds = {spec.name: array for spec, array in zip(graph.inputs, feeds, strict=True)}
    rewritten, passes = rewrite(graph, [feeds])
    assert [record for record in passes if record.outcome == "dropped"] == []
    named = named_graph(rewritten)
    named.save(folder / "engine.onnx")
    engine = OnnxRuntimeEngine(folder / "engine.onnx", threads=2)
    try:
        outputs = engine.run(feeds)
    finally:
        engine.close()
    return len(layers_of(named)), [outputs[spec.name] for spec in graph.outputs]


@pytest.mark.parametrize("name", LIGHT)
def test_network_of_an_old_opset_is_built_with_all_its_layers(name: str, tmp_path: Path) -> None:
    shape = (1, 3, 224, 224)
    size = int(np.prod(shape))
    ramp = (np.arange(size) / size).astype(np.float32).reshape(shape)
    source = DATA / "light" / f"light_{name}.onnx"
    assert onnx.load(source).opset_import[0].version == 9
    layers, (found,) = _build_and_run(source, [ramp], tmp_path)
    assert layers == LIGHT[name]
    np.testing.assert_allclose(found, _tensor(DATA / "light" / f"light_{name}_output_0.pb"), rtol=RTOL, atol=ATOL)


def _exports_of_pytorch() -> Iterator[Path]:
    for kind in ("pytorch-converted", "pytorch-operator"):
        yield from sorted((DATA / kind).glob("test_*"))


def test_old_exports_of_pytorch_are_built_where_onnx_runtime_has_their_operators(tmp_path: Path) -> None:
    """Some have operators of opset 1, for which ONNX Runtime never had an implementation."""
    folders, wrong, refused = list(_exports_of_pytorch()), {}, {}
    for folder in folders:
        data = folder / "test_data_set_0"
        feeds = [_tensor(data / f"input_{position}.pb") for position in range(len(list(data.glob("input_*.pb"))))]
        try:
            _, outputs = _build_and_run(folder / "model.onnx", feeds, tmp_path)
        except Unsupported as problem:
            refused[folder.name] = str(problem)
            continue
        for position, found in enumerate(outputs):
            expected = _tensor(data / f"output_{position}.pb")
            if not np.allclose(found, expected, rtol=RTOL, atol=ATOL, equal_nan=True):
                wrong[folder.name] = position
    assert wrong == {}
    assert len(folders) - len(refused) > 75
    for name, reason in refused.items():
        assert re.search(r"Could not find an implementation for \w+\(\d\)", reason), name
