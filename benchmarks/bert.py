"""BERT in code, with random weights: the size of a real text encoder, for measuring speed and nothing else.

The architecture is that of Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018), without a
mask and without segments, written as exporters write it: attention in single steps, Gelu through Erf.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

LONGEST = 512
EPSILON = 1e-12


def build_bert(
    seed: int = 0, layers: int = 6, hidden: int = 384, heads: int = 12, vocabulary: int = 30522
) -> onnx.ModelProto:
    """Make the model: `tokens` INT64 [batch, sequence], at most 512, to `states` FP32 [batch, sequence, hidden]."""
    return _Builder(seed, hidden, heads).build(layers, vocabulary)


class _Builder:
    def __init__(self, seed: int, hidden: int, heads: int) -> None:
        self._random = np.random.default_rng(seed)
        self._hidden = hidden
        self._heads = heads
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def build(self, layers: int, vocabulary: int) -> onnx.ModelProto:
        states = self._embed(vocabulary)
        for _ in range(layers):
            states = self._normalize(self._add("Add", [states, self._attend(states)]))
            states = self._normalize(self._add("Add", [states, self._feed_forward(states)]))
        self._nodes.append(helper.make_node("Identity", [states], ["states"]))
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "sequence"])],
            [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "sequence", self._hidden])],
            self._weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    def _embed(self, vocabulary: int) -> str:
        """What each token means plus where it stands; the sequence may be of any length up to `LONGEST`."""
        words = self._add("Gather", [self._weight((vocabulary, self._hidden), 1.0), "tokens"])
        length = self._add("Shape", ["tokens"], start=1, end=2)
        zero = self._constant(np.array([0], dtype=np.int64))
        places = self._add("Slice", [self._weight((LONGEST, self._hidden), 0.5), zero, length, zero])
        return self._normalize(self._add("Add", [words, places]))

    def _attend(self, states: str) -> str:
        size = self._hidden // self._heads
        split = self._constant(np.array([0, 0, self._heads, size], dtype=np.int64))
        query, key, value = (self._add("Reshape", [self._linear(states, self._hidden), split]) for _ in range(3))
        query = self._add("Transpose", [query], perm=[0, 2, 1, 3])
        key = self._add("Transpose", [key], perm=[0, 2, 3, 1])
        value = self._add("Transpose", [value], perm=[0, 2, 1, 3])
        scores = self._add("Div", [self._add("MatMul", [query, key]), self._scalar(np.sqrt(size))])
        mixed = self._add("MatMul", [self._add("Softmax", [scores], axis=-1), value])
        mixed = self._add("Transpose", [mixed], perm=[0, 2, 1, 3])
        whole = self._constant(np.array([0, 0, self._hidden], dtype=np.int64))
        return self._linear(self._add("Reshape", [mixed, whole]), self._hidden)

    def _feed_forward(self, states: str) -> str:
        return self._linear(self._gelu(self._linear(states, 4 * self._hidden)), self._hidden, 4 * self._hidden)

    def _gelu(self, value: str) -> str:
        error = self._add("Erf", [self._add("Div", [value, self._scalar(np.sqrt(2))])])
        grown = self._add("Mul", [value, self._add("Add", [error, self._scalar(1)])])
        return self._add("Mul", [grown, self._scalar(0.5)])

    def _linear(self, value: str, outputs: int, inputs: int | None = None) -> str:
        inputs = inputs or self._hidden
        product = self._add("MatMul", [value, self._weight((inputs, outputs), inputs**-0.5)])
        return self._add("Add", [self._weight((outputs,), 0.02), product])

    def _normalize(self, value: str) -> str:
        scale = self._constant(1 + self._drawn((self._hidden,), 0.1))
        return self._add("LayerNormalization", [value, scale, self._weight((self._hidden,), 0.1)], epsilon=EPSILON)

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def _weight(self, shape: tuple[int, ...], deviation: float) -> str:
        return self._constant(self._drawn(shape, deviation))

    def _drawn(self, shape: tuple[int, ...], deviation: float) -> npt.NDArray[np.float32]:
        return self._random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

    def _scalar(self, value: float) -> str:
        return self._constant(np.array(value, dtype=np.float32))

    def _constant(self, values: npt.NDArray[Any]) -> str:
        name = f"weight{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name
