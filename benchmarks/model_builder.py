"""Models written in code, node after node, with seeded random weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
IR_VERSION = 10


class ModelBuilder:
    """Collects nodes and weights; every method that adds one returns the name of its value."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        return self.named_node(f"value{len(self._nodes)}", operator, inputs, **attributes)

    def named_node(self, output: str, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """A node whose value has a name that others must know: an output of the model."""
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, shape: tuple[int, ...], deviation: float) -> str:
        return self.constant(self.drawn(shape, deviation))

    def he_weight(self, shape: tuple[int, ...], fan_in: int) -> str:
        """He initialization, so that values neither vanish nor overflow on their way through 50 layers."""
        return self.weight(shape, np.sqrt(2 / fan_in))

    def drawn(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float32]:
        """Normal values around 0."""
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    def scalar(self, value: float) -> str:
        return self.constant(np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """A vector, such as a target shape."""
        return self.constant(np.array(values, dtype=np.int64))

    def constant(self, values: npt.NDArray[Any]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def model(self, name: str, source: onnx.ValueInfoProto, answer: tuple[str, Sequence[int | str]]) -> onnx.ModelProto:
        """Everything added so far, with one input and one FP32 output of the given name and shape."""
        output = helper.make_tensor_value_info(answer[0], TensorProto.FLOAT, list(answer[1]))
        graph = helper.make_graph(self._nodes, name, [source], [output], self._weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def images(side: int = 224) -> onnx.ValueInfoProto:
    """The input of an image model: `images` FP32 [batch, 3, side, side]."""
    return helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, side, side])
