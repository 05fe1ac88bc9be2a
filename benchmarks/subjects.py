"""The models that the tables of the optimizer are measured on.

Five were trained here and decide what is right; three are real architectures with random weights and decide speed only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx

from benchmarks.bert import build_bert
from benchmarks.mobilenet import build_mobilenet_v2
from benchmarks.resnet50 import build_resnet50
from benchmarks.synthetic_rows import smooth_images, token_rows, write_splits
from enginehouse.dtype import Array

EXAMPLES = Path(__file__).parents[1] / "examples"
SIDE, SEQUENCE, VOCABULARY = 224, 64, 30522


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with its data, and how it is judged.

    Attributes:
        metric: None lets the build choose: top1 where there are labels.
        max_batch_size: the largest batch that is measured.
        benchmark_seconds: for each batch size.
    """

    name: str
    model: Path
    data: Path
    metric: str | None = None
    max_drop: str = "1%"
    max_batch_size: int = 32
    benchmark_seconds: float = 1.0


TRAINED = {
    "cnn": ("digits/digits.onnx", "digits/digits.npz"),
    "mlp": ("digits/digits_mlp.onnx", "digits/digits.npz"),
    "lstm": ("digits/digits_lstm.onnx", "digits/digits.npz"),
    "transformer": ("digits/digits_transformer.onnx", "digits/digits.npz"),
    "docstrings": ("docstrings/docstrings.onnx", "docstrings/docstrings.npz"),
}
RANDOM: dict[str, tuple[Callable[[], onnx.ModelProto], str, Callable[[int, int], Array]]] = {
    "resnet50": (build_resnet50, "images", lambda rows, seed: smooth_images(rows, SIDE, seed)),
    "mobilenet_v2": (build_mobilenet_v2, "images", lambda rows, seed: smooth_images(rows, SIDE, seed)),
    "bert": (build_bert, "tokens", lambda rows, seed: token_rows(rows, SEQUENCE, VOCABULARY, seed)),
}
NAMES = (*TRAINED, *RANDOM)


def subject_named(name: str, folder: Path) -> Subject:
    """Look a model up; one with random weights is written into `folder` first, with its rows."""
    if name in TRAINED:
        model, data = TRAINED[name]
        return Subject(name, EXAMPLES / model, EXAMPLES / data)
    build, tensor, draw = RANDOM[name]
    target, rows = folder / f"{name}.onnx", folder / f"{name}.npz"
    onnx.save(build(), target)
    write_splits(rows, tensor, draw)
    return Subject(name, target, rows, metric="cosine", max_batch_size=8, benchmark_seconds=4.0)
