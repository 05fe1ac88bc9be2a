from collections import Counter

import numpy as np
import onnx
import onnxruntime

from benchmarks.resnet50 import build_resnet50


def test_resnet50_has_the_layers_and_weights_of_the_paper_and_runs() -> None:
    model = build_resnet50()
    count = Counter(node.op_type for node in model.graph.node)
    assert (count["Conv"], count["Add"], count["Gemm"]) == (53, 16, 1)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert 25.4e6 < weights < 25.6e6
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((2, 3, 224, 224), dtype=np.float32)
    (scores,) = session.run(["scores"], {"images": images})
    assert scores.shape == (2, 1000)
    assert np.isfinite(scores).all()
    assert scores.std() > 0
