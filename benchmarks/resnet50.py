"""ResNet-50 in code, with random weights: the size of a real network, for measuring speed and nothing else.

The architecture is that of He et al., "Deep Residual Learning for Image Recognition" (2015), with the stride in the
3x3 convolution of each bottleneck.
"""

import onnx

from benchmarks.model_builder import ModelBuilder, images

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


def build_resnet50(seed: int = 0) -> onnx.ModelProto:
    """Make the model: `images` FP32 [batch, 3, 224, 224] to `scores` FP32 [batch, 1000], batch norms folded."""
    return _ResNet(seed).build()


class _ResNet(ModelBuilder):
    def build(self) -> onnx.ModelProto:
        value = self._relu(self._conv("images", 3, 64, kernel=7, stride=2))
        value = self.node("MaxPool", [value], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        channels = 64
        for stage, (blocks, width) in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage and block == 0 else 1
                value = self._bottleneck(value, channels, width, stride)
                channels = 4 * width
        value = self.node("Flatten", [self.node("GlobalAveragePool", [value])])
        self.named_node("scores", "Gemm", [value, self.he_weight((1000, channels), channels)], transB=1)
        return self.model("resnet50", images(), ("scores", ["batch", 1000]))

    def _bottleneck(self, value: str, channels: int, width: int, stride: int) -> str:
        shortcut = value
        if stride != 1 or channels != 4 * width:
            shortcut = self._conv(value, channels, 4 * width, kernel=1, stride=stride)
        inner = self._relu(self._conv(value, channels, width, kernel=1))
        inner = self._relu(self._conv(inner, width, width, kernel=3, stride=stride))
        inner = self._conv(inner, width, 4 * width, kernel=1)
        return self._relu(self.node("Add", [inner, shortcut]))

    def _conv(self, value: str, channels: int, width: int, kernel: int, stride: int = 1) -> str:
        weight = self.he_weight((width, channels, kernel, kernel), channels * kernel * kernel)
        padding = kernel // 2
        return self.node("Conv", [value, weight], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)

    def _relu(self, value: str) -> str:
        return self.node("Relu", [value])
