"""BERT in code, with random weights: the size of a real text encoder, for measuring speed and nothing else.

The architecture is that of Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers" (2018), without a
mask and without segments, written as exporters write it: attention in single steps, Gelu through Erf.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.model_builder import ModelBuilder

LONGEST = 512
EPSILON = 1e-12


def build_bert(
    seed: int = 0, layers: int = 6, hidden: int = 384, heads: int = 12, vocabulary: int = 30522
) -> onnx.ModelProto:
    """Make the model: `tokens` INT64 [batch, sequence], at most 512, to `states` FP32 [batch, sequence, hidden]."""
    return _Bert(seed, hidden, heads).build(layers, vocabulary)


class _Bert(ModelBuilder):
    def __init__(self, seed: int, hidden: int, heads: int) -> None:
        super().__init__(seed)
        self._hidden = hidden
        self._heads = heads

    def build(self, layers: int, vocabulary: int) -> onnx.ModelProto:
        states = self._embed(vocabulary)
        for _ in range(layers):
            states = self._normalize(self.node("Add", [states, self._attend(states)]))
            states = self._normalize(self.node("Add", [states, self._feed_forward(states)]))
        self.named_node("states", "Identity", [states])
        tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "sequence"])
        return self.model("bert", tokens, ("states", ["batch", "sequence", self._hidden]))

    def _embed(self, vocabulary: int) -> str:
        """What each token means plus where it stands; the sequence may be of any length up to `LONGEST`."""
        words = self.node("Gather", [self.weight((vocabulary, self._hidden), 1.0), "tokens"])
        length = self.node("Shape", ["tokens"], start=1, end=2)
        zero = self.integers(0)
        places = self.node("Slice", [self.weight((LONGEST, self._hidden), 0.5), zero, length, zero])
        return self._normalize(self.node("Add", [words, places]))

    def _attend(self, states: str) -> str:
        size = self._hidden // self._heads
        split = self.integers(0, 0, self._heads, size)
        query, key, value = (self.node("Reshape", [self._linear(states, self._hidden), split]) for _ in range(3))
        query = self.node("Transpose", [query], perm=[0, 2, 1, 3])
        key = self.node("Transpose", [key], perm=[0, 2, 3, 1])
        value = self.node("Transpose", [value], perm=[0, 2, 1, 3])
        scores = self.node("Div", [self.node("MatMul", [query, key]), self.scalar(np.sqrt(size))])
        mixed = self.node("MatMul", [self.node("Softmax", [scores], axis=-1), value])
        mixed = self.node("Transpose", [mixed], perm=[0, 2, 1, 3])
        whole = self.integers(0, 0, self._hidden)
        return self._linear(self.node("Reshape", [mixed, whole]), self._hidden)

    def _feed_forward(self, states: str) -> str:
        return self._linear(self._gelu(self._linear(states, 4 * self._hidden)), self._hidden, 4 * self._hidden)

    def _gelu(self, value: str) -> str:
        error = self.node("Erf", [self.node("Div", [value, self.scalar(np.sqrt(2))])])
        grown = self.node("Mul", [value, self.node("Add", [error, self.scalar(1)])])
        return self.node("Mul", [grown, self.scalar(0.5)])

    def _linear(self, value: str, outputs: int, inputs: int | None = None) -> str:
        inputs = inputs or self._hidden
        product = self.node("MatMul", [value, self.weight((inputs, outputs), inputs**-0.5)])
        return self.node("Add", [self.weight((outputs,), 0.02), product])

    def _normalize(self, value: str) -> str:
        scale = self.constant(1 + self.drawn((self._hidden,), 0.1))
        return self.node("LayerNormalization", [value, scale, self.weight((self._hidden,), 0.1)], epsilon=EPSILON)
