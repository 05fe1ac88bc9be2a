"""Train four small models on real handwritten digits and export them, with their data, for the quick start.

scikit-learn's `load_digits`: 1,797 scans of 8x8 pixels, values 0 to 16, here scaled to 0..1. One file of data serves
all four models; each takes `pixels` [batch, 1, 8, 8] and answers `logits` [batch, 10].

    python -m examples.digits.train            writes digits.npz, digits.onnx and three more models, digits_*.onnx
    python -m examples.digits.train --help     what can be changed
"""

import argparse
import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from examples.transformer import ImageEncoder

SHARES = {"train": 0.5, "calibration": 0.125, "validation": 0.175, "test": 0.2}
SEED = 1998
OPSET = 20
PIXEL_MAX = 16.0
BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Split:
    """The rows of one split: `pixels` FP32 [rows, 1, 8, 8] in 0..1 and `label` INT64 [rows]."""

    pixels: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one model is made; the number of epochs is an upper bound, validation picks the one that is kept."""

    file: str
    build: Callable[[], Any]
    epochs: int
    learning_rate: float


class LastStep(nn.Module):  # type: ignore[misc]  # PyTorch is untyped here
    """What an LSTM says after its last step."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, batch_first=True)

    def forward(self, steps: Any) -> Any:
        outputs, _ = self.lstm(steps)
        return outputs[:, -1]


def cnn() -> Any:
    return nn.Sequential(
        *convolution(1, 32),
        *convolution(32, 64),
        nn.MaxPool2d(2),
        *convolution(64, 64),
        *convolution(64, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 2 * 2, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def convolution(inputs: int, outputs: int) -> tuple[Any, Any, Any]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()


def mlp() -> Any:
    return nn.Sequential(nn.Flatten(), *dense(64, 256), *dense(256, 128), nn.Linear(128, 10))


def dense(inputs: int, outputs: int) -> tuple[Any, Any, Any, Any]:
    return nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU(), nn.Dropout(0.2)


def lstm() -> Any:
    """Reads the image as a sequence: 8 rows of 8 pixels, from top to bottom."""
    return nn.Sequential(nn.Flatten(1, 2), LastStep(8, 96), nn.Dropout(0.2), nn.Linear(96, 10))


def transformer() -> Any:
    """Reads the image as 8 tokens of 8 values, each of which sees all others."""
    return ImageEncoder(rows=8, columns=8, classes=10, width=64, layers=2, dropout=0.1)


RECIPES = {
    "cnn": Recipe("digits.onnx", cnn, epochs=40, learning_rate=2e-3),
    "mlp": Recipe("digits_mlp.onnx", mlp, epochs=80, learning_rate=2e-3),
    "lstm": Recipe("digits_lstm.onnx", lstm, epochs=120, learning_rate=4e-3),
    "transformer": Recipe("digits_transformer.onnx", transformer, epochs=150, learning_rate=2e-3),
}


def splits_from_digits() -> dict[str, Split]:
    """Every scan in exactly one split, each split with the same mix of digits, the same on every machine."""
    scans, label = load_digits(return_X_y=True)
    pixels = (scans.reshape(-1, 1, 8, 8) / PIXEL_MAX).astype(np.float32)
    rest = np.arange(len(label))
    splits, left = {}, 1.0
    for name, share in list(SHARES.items())[:-1]:
        chosen, rest = train_test_split(rest, train_size=share / left, stratify=label[rest], random_state=SEED)
        splits[name] = Split(pixels[chosen], label[chosen].astype(np.int64))
        left -= share
    return splits | {"test": Split(pixels[rest], label[rest].astype(np.int64))}


def save_splits(splits: dict[str, Split], target: Path) -> None:
    arrays: dict[str, Any] = {}
    for name, split in splits.items():
        arrays |= {f"{name}/pixels": split.pixels, f"{name}/label": split.label}
    np.savez_compressed(target, **arrays)


def shifted(pixels: Any) -> Any:
    """Each scan moved by up to one pixel, up or down and left or right; what enters at the edge is blank."""
    padded = nn.functional.pad(pixels, (1, 1, 1, 1))
    down, right = torch.randint(0, 3, (2, len(pixels), 1, 1))
    rows = down + torch.arange(8)[None, :, None]
    columns = right + torch.arange(8)[None, None, :]
    return padded[torch.arange(len(pixels))[:, None, None], 0, rows, columns].unsqueeze(1)


def train(recipe: Recipe, splits: dict[str, Split], epochs: int | None = None, *, seed: int = SEED) -> Any:
    """The model after the epoch that did best on the validation split, ready for inference."""
    torch.manual_seed(seed)
    epochs = epochs or recipe.epochs
    model = recipe.build()
    pixels, label = torch.from_numpy(splits["train"].pixels), torch.from_numpy(splits["train"].label)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    steps = -(-len(label) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=epochs * steps)
    best, best_score = copy.deepcopy(model.state_dict()), (-1.0, 0.0)
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(label)).split(BATCH_SIZE):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(shifted(pixels[rows])), label[rows], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
        score = accuracy_and_certainty(model, splits["validation"])
        if score >= best_score:
            best, best_score = copy.deepcopy(model.state_dict()), score
    model.load_state_dict(best)
    return model.eval()


def accuracy_and_certainty(model: Any, split: Split) -> tuple[float, float]:
    """Share of rows answered right, and minus the mean loss, which decides between equals."""
    model.eval()
    with torch.no_grad():
        logits, label = model(torch.from_numpy(split.pixels)), torch.from_numpy(split.label)
    return float((logits.argmax(1) == label).double().mean()), -float(nn.functional.cross_entropy(logits, label))


def export(model: Any, target: Path) -> None:
    """Write the model as ONNX with an open batch axis and the layers as they were trained, nothing fused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about its own insides
        program = torch.onnx.export(
            model,
            (torch.zeros(2, 1, 8, 8),),
            input_names=["pixels"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    graph = program.model.graph
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for part in (program.model, graph, *graph, *values):
        part.metadata_props.clear()  # holds stack traces with the paths of the machine that exported
    program.save(target, external_data=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the digits models and export them to ONNX.")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent, help="folder to write into")
    parser.add_argument("--models", nargs="+", choices=RECIPES, default=list(RECIPES), help="which models to train")
    parser.add_argument("--epochs", type=int, help="upper bound of epochs; each model has its own by default")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    splits = splits_from_digits()
    save_splits(splits, given.target / "digits.npz")
    print(f"| model | {' | '.join(f'{name} ({len(split.label)} rows)' for name, split in splits.items())} |")
    print("|---|" + "---:|" * len(splits))
    for name in given.models:
        recipe = RECIPES[name]
        model = train(recipe, splits, given.epochs)
        export(model, given.target / recipe.file)
        cells = (f"{accuracy_and_certainty(model, split)[0]:.2%}" for split in splits.values())
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
