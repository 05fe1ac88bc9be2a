from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.mobilenet import build_mobilenet_v2


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_mobilenet_v2()


def test_mobilenet_has_the_layers_and_the_weights_of_the_paper(model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    count = Counter(node.op_type for node in model.graph.node)
    assert (count["Conv"], count["Clip"], count["Add"], count["Gemm"]) == (52, 35, 10, 1)
    depthwise = [node for node in model.graph.node for field in node.attribute if field.name == "group" and field.i > 1]
    assert len(depthwise) == 17
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert weights == pytest.approx(3.5e6, rel=0.03)


def test_mobilenet_answers_each_image_by_itself_with_values_of_ordinary_size(model: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((3, 3, 224, 224), dtype=np.float32)
    (scores,) = session.run(["scores"], {"images": images})
    assert scores.shape == (3, 1000)
    assert 0.01 < scores.std() < 100
    assert np.abs(scores[0] - scores[1]).max() > 1e-3 * np.abs(scores).max()
    (alone,) = session.run(["scores"], {"images": images[1:2]})
    np.testing.assert_allclose(alone[0], scores[1], rtol=0, atol=1e-4 * np.abs(scores).max())
