"""Train a small transformer to tell what a docstring is about, and export it.

Reads docstrings.npz, which collect.py made: `tokens` [batch, sequence] in, `logits` [batch, 8] out.

    python -m examples.docstrings.train            writes docstrings.onnx
    python -m examples.docstrings.train --help     what can be changed
"""

import argparse
import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from examples.transformer import TextEncoder

WORDS, LENGTH, FAMILIES = 4000, 48, 8
SPLITS = ("train", "calibration", "validation", "test")
SEED = 1991
OPSET = 20
BATCH_SIZE = 64
EPOCHS = 30
LEARNING_RATE = 1.5e-3
FORGOTTEN = 0.2

# Tokens INT64 [rows, sequence] and labels INT64 [rows], as tensors.
Split = tuple[Any, Any]


def load_splits(path: Path) -> dict[str, Split]:
    with np.load(path, allow_pickle=False) as arrays:
        return {
            name: (torch.from_numpy(arrays[f"{name}/tokens"]), torch.from_numpy(arrays[f"{name}/label"]))
            for name in SPLITS
        }


def new_model() -> Any:
    return TextEncoder(WORDS, LENGTH, FAMILIES, width=64, layers=2, dropout=0.3)


def with_gaps(tokens: Any) -> Any:
    """Some words replaced by the unknown one, so that no single word decides."""
    gap = (torch.rand(tokens.shape) < FORGOTTEN) & (tokens != 0)
    return torch.where(gap, torch.ones_like(tokens), tokens)


def train(splits: dict[str, Split], epochs: int = EPOCHS, seed: int = SEED) -> Any:
    """The model after the epoch that did best on the validation split, ready for inference."""
    torch.manual_seed(seed)
    model = new_model()
    tokens, label = splits["train"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = -(-len(label) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * steps)
    best, best_score = copy.deepcopy(model.state_dict()), -1.0
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(label)).split(BATCH_SIZE):
            optimizer.zero_grad()
            logits = model(with_gaps(tokens[rows]))
            nn.functional.cross_entropy(logits, label[rows], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
        score = accuracy(model, splits["validation"])
        if score >= best_score:
            best, best_score = copy.deepcopy(model.state_dict()), score
    model.load_state_dict(best)
    return model.eval()


def accuracy(model: Any, split: Split) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(split[0]).argmax(1) == split[1]).double().mean())


def export(model: Any, target: Path) -> None:
    """Write the model as ONNX with open batch and sequence, the layers as they were trained, nothing fused."""
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=LENGTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns about its own insides
        program = torch.onnx.export(
            model,
            (torch.ones(2, 16, dtype=torch.int64),),
            input_names=["tokens"],
            output_names=["logits"],
            dynamic_shapes=({0: batch, 1: sequence},),
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


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description="Train the docstrings model and export it to ONNX.")
    parser.add_argument("--data", type=Path, default=here / "docstrings.npz", help="what collect.py made")
    parser.add_argument("--target", type=Path, default=here, help="folder to write into")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="upper bound of epochs")
    given = parser.parse_args()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    splits = load_splits(given.data)
    model = train(splits, given.epochs)
    export(model, given.target / "docstrings.onnx")
    print(f"| {' | '.join(f'{name} ({len(split[1])} rows)' for name, split in splits.items())} |")
    print("|" + "---:|" * len(splits))
    print(f"| {' | '.join(f'{accuracy(model, split):.2%}' for split in splits.values())} |")


if __name__ == "__main__":
    main()
