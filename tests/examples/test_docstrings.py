from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from enginehouse.dtype import Array

DOCSTRINGS = Path(__file__).parents[2] / "examples" / "docstrings"
SHARES = {"train": 0.6, "calibration": 0.1, "validation": 0.15, "test": 0.15}


@pytest.fixture(scope="module")
def data() -> dict[str, Array]:
    with np.load(DOCSTRINGS / "docstrings.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(DOCSTRINGS / "docstrings.onnx", providers=["CPUExecutionProvider"])


def accuracy(session: onnxruntime.InferenceSession, data: dict[str, Array], split: str) -> float:
    (logits,) = session.run(["logits"], {"tokens": data[f"{split}/tokens"]})
    return float((logits.argmax(axis=1) == data[f"{split}/label"]).mean())


def test_model_and_data_are_small() -> None:
    assert (DOCSTRINGS / "docstrings.onnx").stat().st_size < 2_000_000
    assert (DOCSTRINGS / "docstrings.npz").stat().st_size < 1_000_000


def test_data_has_four_splits_of_the_promised_shares(data: dict[str, Array]) -> None:
    rows = {split: len(data[f"{split}/label"]) for split in SHARES}
    for split, share in SHARES.items():
        tokens, label = data[f"{split}/tokens"], data[f"{split}/label"]
        assert tokens.dtype == label.dtype == np.int64
        assert tokens.shape == (len(label), 48)
        assert rows[split] == pytest.approx(share * sum(rows.values()), abs=16)
        assert set(label.tolist()) == set(range(8))
    assert set(data) == {f"{split}/{name}" for split in SHARES for name in ("tokens", "label")}


def test_every_token_has_a_word_and_padding_only_follows_words(data: dict[str, Array]) -> None:
    words = (DOCSTRINGS / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert len(words) == len(set(words)) == 4000
    assert words[:2] == ["<padding>", "<unknown>"]
    for split in SHARES:
        tokens = data[f"{split}/tokens"]
        assert 0 <= tokens.min() <= tokens.max() < len(words)
        assert ((tokens != 0).sum(axis=1) >= 5).all()
        assert not ((tokens[:, :-1] == 0) & (tokens[:, 1:] != 0)).any()


def test_no_row_is_in_two_splits_with_its_words_known(data: dict[str, Array]) -> None:
    """Words outside the vocabulary are all one token, so a few short rows may look alike; they differ as text."""
    seen: dict[bytes, str] = {}
    shared = 0
    for split in SHARES:
        for row in data[f"{split}/tokens"]:
            known = not (row == 1).any()
            assert not (known and seen.get(row.tobytes(), split) != split)
            shared += seen.setdefault(row.tobytes(), split) != split
    assert shared < 0.005 * sum(len(data[f"{split}/label"]) for split in SHARES)


def test_rows_of_a_split_are_in_random_order(data: dict[str, Array]) -> None:
    for split in SHARES:
        assert len(set(data[f"{split}/label"][:40].tolist())) >= 6


def test_model_is_valid_with_open_batch_and_sequence_and_tells_nothing_of_its_machine() -> None:
    model = onnx.load(DOCSTRINGS / "docstrings.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"tokens": ["batch", "sequence"], "logits": ["batch", 8]}
    assert [node.op_type for node in model.graph.node].count("Softmax") == 2
    assert not model.metadata_props
    assert b".py" not in (DOCSTRINGS / "docstrings.onnx").read_bytes()


def test_padding_changes_no_answer(session: onnxruntime.InferenceSession, data: dict[str, Array]) -> None:
    tokens = data["test/tokens"][:40]
    (together,) = session.run(["logits"], {"tokens": tokens})
    lengths = (tokens != 0).sum(axis=1)
    assert lengths.min() < 48
    for row, length in enumerate(lengths):
        (alone,) = session.run(["logits"], {"tokens": tokens[row : row + 1, :length]})
        np.testing.assert_allclose(alone[0], together[row], rtol=0, atol=1e-5)


def test_model_knows_more_than_the_largest_family(
    session: onnxruntime.InferenceSession, data: dict[str, Array]
) -> None:
    largest = np.bincount(data["test/label"]).max() / len(data["test/label"])
    assert largest < 0.16
    assert accuracy(session, data, "test") > 0.74


def test_readme_tells_the_measured_accuracies(session: onnxruntime.InferenceSession, data: dict[str, Array]) -> None:
    cells = " | ".join(f"{accuracy(session, data, split):.2%}" for split in SHARES)
    heads = " | ".join(f"{split} ({len(data[f'{split}/label'])} rows)" for split in SHARES)
    readme = (DOCSTRINGS / "README.md").read_text()
    assert f"| {heads} |" in readme
    assert f"| {cells} |" in readme
