import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizer.graph.shapes import infer_shapes, value_types


def _model(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    model.graph.initializer.append(numpy_helper.from_array(np.ones((512, 512), np.float32), "W"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1, 2, 256], np.int64), "s"))
    return model


TEXT = "(float[N,512] x) => (float[A,B,C] y) { a = MatMul(x, W) y = Reshape(a, s) }"


def test_shapes_are_inferred_without_the_large_weights() -> None:
    model = _model(TEXT)
    inferred = infer_shapes(model, is_strict=True)
    assert len(inferred.SerializeToString()) < 10_000
    sizes = [size.dim_value for size in value_types(inferred)["a"].tensor_type.shape.dim]
    assert sizes == [0, 512]
    assert model.graph.initializer[0].HasField("raw_data")


def test_contradiction_is_raised_only_when_asked() -> None:
    model = _model(TEXT.replace("[N,512]", "[N,511]"))
    infer_shapes(model, is_strict=False)
    with pytest.raises(onnx.shape_inference.InferenceError):
        infer_shapes(model, is_strict=True)
