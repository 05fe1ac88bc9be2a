from pathlib import Path

import numpy as np
import pytest

from enginehouse.dtype import DTYPES, Array
from enginehouse.errors import InvalidInput
from enginehouse.tensor import TensorSpec
from optimizer.data.feeds import Batch
from optimizer.evaluate.metrics import metric_from_name, score_text
from optimizer.evaluate.summary import MeanOfHits

MANY = TensorSpec("many", DTYPES["FP32"], (-1, 8))
SCORES = TensorSpec("scores", DTYPES["FP32"], (-1, 3))
VALUE = TensorSpec("value", DTYPES["FP32"], (-1, 1))
IMAGE = TensorSpec("image", DTYPES["FP32"], (-1, 2, 2))
CLASS = TensorSpec("class", DTYPES["INT64"], (-1,))
TEXT = TensorSpec("text", DTYPES["BYTES"], (-1,))


def batch(labels: Array | None, rows: int) -> Batch:
    return Batch({}, labels, rows)


@pytest.mark.parametrize(
    ("output", "has_labels", "expected"),
    [(SCORES, True, "top1"), (SCORES, False, "agreement"), (VALUE, True, "agreement"), (CLASS, True, "top1")],
)
def test_the_metric_is_found_from_output_and_labels(output: TensorSpec, has_labels: bool, expected: str) -> None:
    assert metric_from_name(None, output, has_labels).name == expected


def test_top1_counts_rows_whose_highest_class_is_the_label() -> None:
    metric = metric_from_name("top1", SCORES, True)
    outputs = {"scores": np.array([[0.1, 0.9, 0.0], [0.5, 0.1, 0.2], [np.nan, 0.0, 0.0]], np.float32)}
    assert metric.scores(outputs, outputs, batch(np.array([1, 2, 0]), 3)).tolist() == [1.0, 0.0, 0.0]


def test_top1_takes_classes_and_text_as_they_are() -> None:
    classes, text = metric_from_name("top1", CLASS, True), metric_from_name("top1", TEXT, True)
    outputs = {"class": np.array([4, 5]), "text": np.array([b"cat", "dog"], object)}
    assert classes.scores(outputs, outputs, batch(np.array([[4], [4]]), 2)).tolist() == [1.0, 0.0]
    assert text.scores(outputs, outputs, batch(np.array(["cat", "cow"]), 2)).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("label", [3, -1, 0.5, "cat"])
def test_a_label_that_no_score_stands_for_is_refused(label: float | str) -> None:
    metric = metric_from_name("top1", SCORES, True)
    outputs = {"scores": np.zeros((1, 3), np.float32)}
    with pytest.raises(InvalidInput, match="from 0 to 2"):
        metric.scores(outputs, outputs, batch(np.array([label]), 1))


def test_mse_is_better_when_lower() -> None:
    metric = metric_from_name("mse", VALUE, True)
    outputs = {"value": np.array([[1.0], [3.0]], np.float32)}
    scores = metric.scores(outputs, outputs, batch(np.array([1.0, 1.0]), 2))
    assert scores.tolist() == [0.0, 4.0]
    assert metric.drop(np.zeros(2), scores, 0).point == 2.0


def test_agreement_of_a_classifier_is_the_same_class() -> None:
    metric = metric_from_name("agreement", SCORES, False)
    source = {"scores": np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)}
    found = {"scores": np.array([[0.0, 9.0, 0.0], [0.0, 1.0, 0.0]], np.float32)}
    assert metric.scores(found, source, batch(None, 2)).tolist() == [1.0, 0.0]
    assert isinstance(metric.summary, MeanOfHits)


def test_agreement_of_anything_else_is_closeness() -> None:
    metric = metric_from_name("agreement", IMAGE, False)
    image = np.ones((2, 2))
    source = {"image": np.array([image, 0 * image, image, image, image])}
    found = {"image": np.array([image, 0 * image, 0 * image, -image, np.nan * image])}
    assert metric.scores(found, source, batch(None, 5)) == pytest.approx([1.0, 1.0, 0.0, -1.0, 0.0])
    assert not isinstance(metric.summary, MeanOfHits)


def test_agreement_sees_an_answer_of_another_size() -> None:
    metric = metric_from_name("agreement", VALUE, False)
    source, found = {"value": np.array([[10.0], [10.0]])}, {"value": np.array([[1000.0], [11.0]])}
    far, near = metric.scores(found, source, batch(None, 2))
    assert far < 0.1
    assert near == pytest.approx(0.9955, abs=1e-4)


def test_top5_counts_rows_whose_label_is_among_the_five_highest() -> None:
    metric = metric_from_name("top5", MANY, True)
    scores = np.tile(np.arange(8, dtype=np.float32), (4, 1))
    scores[2] = 0  # all alike: the first five are taken, as top1 takes the first one
    scores[3, 0] = np.nan
    outputs = {"many": scores}
    assert metric.scores(outputs, outputs, batch(np.array([3, 2, 5, 7]), 4)).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_f1_is_what_scikit_learn_says() -> None:
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 3, 500), random.standard_normal((500, 3)).astype(np.float32)
    scores[np.arange(500), labels] += 1
    metric = metric_from_name("f1", SCORES, True)
    rows = metric.scores({"scores": scores}, {"scores": scores}, batch(labels, 500))
    assert metric.total(rows) == pytest.approx(f1_score(labels, scores.argmax(axis=1), average="macro"))


def test_f1_takes_text_as_it_is() -> None:
    metric = metric_from_name("f1", TEXT, True)
    outputs = {"text": np.array([b"cat", "dog", "dog"], object)}
    rows = metric.scores(outputs, outputs, batch(np.array(["cat", "cat", "dog"]), 3))
    assert metric.total(rows) == pytest.approx(2 / 3)


def test_f1_sees_a_rare_class_that_top1_does_not() -> None:
    labels = np.array([0] * 196 + [1] * 4)
    right = np.eye(3, dtype=np.float32)[labels]
    blind = np.eye(3, dtype=np.float32)[np.zeros(200, int)]
    drops = {}
    for name in ("top1", "f1"):
        metric = metric_from_name(name, SCORES, True)
        before, after = (metric.scores({"scores": y}, {}, batch(labels, 200)) for y in (right, blind))
        drops[name] = metric.drop(before, after, seed=0)
    assert drops["top1"].point == pytest.approx(0.02)
    assert drops["f1"].point > 0.5
    assert drops["f1"].is_significant


def test_cosine_sees_direction_and_not_length() -> None:
    metric = metric_from_name("cosine", SCORES, False)
    source = {"scores": np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32)}
    found = {"scores": np.array([[9, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)}
    assert metric.scores(found, source, batch(None, 5)) == pytest.approx([1.0, 0.0, 0.5**0.5, 1.0, 0.0])
    labels = np.array([[0, 2, 0]] * 5)
    by_labels = metric_from_name("cosine", SCORES, True)
    assert by_labels.scores(found, source, batch(labels, 5))[1] == 1.0


def test_a_metric_of_the_users_own_is_called_with_outputs_and_labels(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def near(outputs, labels):\n    return -abs(outputs['value'][:, 0] - labels)\n")
    metric = metric_from_name(f"{tmp_path / 'own.py'}:near", VALUE, True)
    outputs = {"value": np.array([[1.0], [3.0]], np.float32)}
    scores = metric.scores(outputs, {}, batch(np.array([1.0, 1.0]), 2))
    assert scores.tolist() == [0.0, -2.0]
    assert metric.drop(np.zeros(2), scores, 0).point == 1.0
    assert not metric.is_share


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"metric is 'top2'; expected one of top1, top5, f1, .*or path\.py:function"):
        metric_from_name("top2", SCORES, True)


@pytest.mark.parametrize("name", ["top1", "top5", "f1", "mse"])
def test_labels_that_are_needed_must_be_there(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"metric {name} needs labels"):
        metric_from_name(name, SCORES, False)


def test_an_output_that_does_not_suit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one score per class"):
        metric_from_name("top1", IMAGE, True)
    with pytest.raises(InvalidInput, match="more than five classes"):
        metric_from_name("top5", SCORES, True)
    with pytest.raises(InvalidInput, match="needs an output of numbers"):
        metric_from_name("mse", TEXT, True)


def test_labels_of_another_shape_are_refused() -> None:
    outputs = {"scores": np.zeros((2, 3), np.float32), "value": np.zeros((2, 1), np.float32)}
    with pytest.raises(InvalidInput, match="one class per row"):
        metric_from_name("top1", SCORES, True).scores(outputs, outputs, batch(np.zeros((2, 3)), 2))
    with pytest.raises(InvalidInput, match="labels hold 2 numbers per row and the output 1"):
        metric_from_name("mse", VALUE, True).scores(outputs, outputs, batch(np.zeros((2, 2)), 2))
    with pytest.raises(InvalidInput, match="labels of numbers are expected"):
        metric_from_name("mse", VALUE, True).scores(outputs, outputs, batch(np.array(["a", "b"]), 2))


def test_an_output_that_does_not_go_by_rows_is_refused() -> None:
    outputs = {"scores": np.zeros((5, 3), np.float32)}
    with pytest.raises(InvalidInput, match=r"shape \[5, 3\] for 2 rows"):
        metric_from_name("agreement", SCORES, False).scores(outputs, outputs, batch(None, 2))


def test_a_share_prints_as_a_percentage_and_an_error_as_a_number() -> None:
    assert score_text("top1", 0.98765) == "98.77%"
    assert score_text("mse", 0.0123456) == "0.01235"
