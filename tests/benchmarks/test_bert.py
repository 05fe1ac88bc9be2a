from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.bert import build_bert
from enginehouse.dtype import Array


@pytest.fixture(scope="module")
def small() -> onnx.ModelProto:
    return build_bert(layers=2, hidden=48, heads=4, vocabulary=100)


def answer(model: onnx.ModelProto, tokens: Array) -> Array:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    states: Array = session.run(["states"], {"tokens": tokens})[0]
    return states


def test_bert_is_valid_and_written_as_exporters_write_it(small: onnx.ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    count = Counter(node.op_type for node in small.graph.node)
    assert count["LayerNormalization"] == 1 + 2 * 2
    assert count["MatMul"] == 2 * (4 + 2 + 2)
    assert (count["Erf"], count["Softmax"], count["Gelu"]) == (2, 2, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 16), (3, 16), (2, 512)])
def test_bert_takes_any_batch_and_any_sequence_up_to_512(small: onnx.ModelProto, shape: tuple[int, int]) -> None:
    states = answer(small, np.random.default_rng(0).integers(0, 100, shape))
    assert states.shape == (*shape, 48)
    assert np.isfinite(states).all()


def test_bert_answers_each_row_by_itself_and_sees_where_a_token_stands(small: onnx.ModelProto) -> None:
    tokens = np.random.default_rng(1).integers(0, 100, (4, 12))
    states = answer(small, tokens)
    np.testing.assert_allclose(answer(small, tokens[2:3])[0], states[2], rtol=0, atol=1e-4)
    assert np.abs(answer(small, tokens[:, ::-1].copy())[:, ::-1] - states).max() > 0.1


def test_bert_of_the_measured_size_has_22_million_weights() -> None:
    model = build_bert()
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert 22e6 < weights < 23e6
    assert [node.op_type for node in model.graph.node].count("Softmax") == 6


def test_the_same_seed_gives_the_same_bert(small: onnx.ModelProto) -> None:
    again = build_bert(layers=2, hidden=48, heads=4, vocabulary=100)
    other = build_bert(seed=1, layers=2, hidden=48, heads=4, vocabulary=100)
    assert again.SerializeToString(deterministic=True) == small.SerializeToString(deterministic=True)
    assert other.SerializeToString(deterministic=True) != small.SerializeToString(deterministic=True)
