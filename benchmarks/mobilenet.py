"""MobileNetV2 in code, with random weights: a real depthwise network, for measuring speed and nothing else.

The architecture is that of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018), at width
1.0; ReLU6 is a Clip with its bounds as inputs, as exporters write it.
"""

import onnx

from benchmarks.model_builder import ModelBuilder, images

# expansion, channels, blocks, stride of the first block
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def build_mobilenet_v2(seed: int = 0) -> onnx.ModelProto:
    """Make the model: `images` FP32 [batch, 3, 224, 224] to `scores` FP32 [batch, 1000], batch norms folded."""
    return _MobileNet(seed).build()


class _MobileNet(ModelBuilder):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._zero = self.scalar(0)
        self._six = self.scalar(6)

    def build(self) -> onnx.ModelProto:
        value = self._relu6(self._conv("images", 3, 32, kernel=3, stride=2))
        channels = 32
        for expansion, width, blocks, first_stride in STAGES:
            for block in range(blocks):
                value = self._inverted_residual(value, channels, width, expansion, 1 if block else first_stride)
                channels = width
        value = self._relu6(self._conv(value, channels, 1280, kernel=1))
        value = self.node("Flatten", [self.node("GlobalAveragePool", [value])])
        weight = self.he_weight((1000, 1280), 1280)
        self.named_node("scores", "Gemm", [value, weight, self.weight((1000,), 0.05)], transB=1)
        return self.model("mobilenet_v2", images(), ("scores", ["batch", 1000]))

    def _inverted_residual(self, value: str, channels: int, width: int, expansion: int, stride: int) -> str:
        """Widen, filter each channel by itself, narrow without an activation; add where nothing changed its shape."""
        wide = expansion * channels
        inner = self._relu6(self._conv(value, channels, wide, kernel=1)) if expansion > 1 else value
        inner = self._relu6(self._conv(inner, wide, wide, kernel=3, stride=stride, group=wide))
        inner = self._conv(inner, wide, width, kernel=1)
        return self.node("Add", [value, inner]) if stride == 1 and channels == width else inner

    def _conv(self, value: str, channels: int, width: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        shape = (width, channels // group, kernel, kernel)
        weight = self.he_weight(shape, shape[1] * kernel * kernel)
        return self.node(
            "Conv",
            [value, weight, self.weight((width,), 0.05)],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=group,
        )

    def _relu6(self, value: str) -> str:
        return self.node("Clip", [value, self._zero, self._six])
