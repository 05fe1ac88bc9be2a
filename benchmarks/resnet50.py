"""ResNet-50 in code, with random weights: the size of a real network, for measuring speed and nothing else.

The architecture is that of He et al., "Deep Residual Learning for Image Recognition" (2015), with the stride in the
3x3 convolution of each bottleneck.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def build_resnet50(seed: int = 0) -> onnx.ModelProto:
    """Make the model: `images` FP32 [batch, 3, 224, 224] to `scores` FP32 [batch, 1000], batch norms folded."""
    return _Builder(seed).build()


class _Builder:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        value = self._relu(self._conv("images", 3, 64, kernel=7, stride=2))
        value = self._add("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for stage, (blocks, width) in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage and block == 0 else 1
                value = self._bottleneck(value, channels, width, stride)
                channels = 4 * width
        value = self._add("Flatten", [self._add("GlobalAveragePool", [value])])
        weight = self._weight((1000, channels), channels)
        self._nodes.append(helper.make_node("Gemm", [value, weight], ["scores"], transB=1))
        graph = helper.make_graph(
            self._nodes,
            "resnet50",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 224, 224])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 1000])],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def _bottleneck(self, value: str, channels: int, width: int, stride: int) -> str:
        shortcut = value
        if stride != 1 or channels != 4 * width:
            shortcut = self._conv(value, channels, 4 * width, kernel=1, stride=stride)
        inner = self._relu(self._conv(value, channels, width, kernel=1))
        inner = self._relu(self._conv(inner, width, width, kernel=3, stride=stride))
        inner = self._conv(inner, width, 4 * width, kernel=1)
        return self._relu(self._add("Add", [inner, shortcut]))

    def _conv(self, value: str, channels: int, width: int, kernel: int, stride: int = 1) -> str:
        weight = self._weight((width, channels, kernel, kernel), channels * kernel * kernel)
        padding = kernel // 2
        return self._add("Conv", [value, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)

    def _relu(self, value: str) -> str:
        return self._add("Relu", [value])

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def _weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        """He initialization, so that values neither vanish nor overflow on their way through 50 layers."""
        name = f"weight{len(self._weights)}"
        values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))
        self._weights.append(numpy_helper.from_array(values, name))
        return name
