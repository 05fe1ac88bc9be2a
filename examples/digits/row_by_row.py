"""Serve the digits LSTM as a scan comes in, row by row: one step of it, with its memory as input and output.

`digits_lstm.onnx` reads the 8 rows of an image at once. The same weights make a model that takes one `row` [batch, 8],
and what it remembers as `hidden` and `cell`. Served with sequence batching, the memory stays in the server: each scan
is a sequence of 8 requests, and the answer to the last one is what the whole image gives.

    python -m examples.digits.row_by_row REPOSITORY     writes REPOSITORY/digits_rows
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

NAME = "digits_rows"
SOURCE = Path(__file__).parent / "digits_lstm.onnx"
CONFIG = """max_batch_size: 32
input { name: "row" data_type: TYPE_FP32 dims: 8 }
output { name: "logits" data_type: TYPE_FP32 dims: 10 }
sequence_batching {
  oldest { max_candidate_sequences: 256 }
  max_sequence_idle_microseconds: 5000000
  state { input_name: "hidden" output_name: "new_hidden" data_type: TYPE_FP32 dims: 96 }
  state { input_name: "cell" output_name: "new_cell" data_type: TYPE_FP32 dims: 96 }
}
"""

Weights = dict[str, npt.NDArray[np.float32]]


def step_from_whole(whole: onnx.ModelProto) -> onnx.ModelProto:
    """One step of the model that reads whole images."""
    weights: Weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    hidden = weights["1.lstm.weight_hh_l0"].shape[1]
    pixels = weights["1.lstm.weight_ih_l0"].shape[1]
    classes = len(weights["3.bias"])
    nodes = [
        helper.make_node("Unsqueeze", ["row", "steps"], ["rows"]),
        helper.make_node("Unsqueeze", ["hidden", "steps"], ["hidden_before"]),
        helper.make_node("Unsqueeze", ["cell", "steps"], ["cell_before"]),
        helper.make_node(
            "LSTM",
            ["rows", "W", "R", "B", "", "hidden_before", "cell_before"],
            ["", "hidden_after", "cell_after"],
            hidden_size=hidden,
        ),
        helper.make_node("Squeeze", ["hidden_after", "steps"], ["new_hidden"]),
        helper.make_node("Squeeze", ["cell_after", "steps"], ["new_cell"]),
        helper.make_node("Gemm", ["new_hidden", "weight", "bias"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [_tensor("row", pixels), _tensor("hidden", hidden), _tensor("cell", hidden)],
        [_tensor("logits", classes), _tensor("new_hidden", hidden), _tensor("new_cell", hidden)],
        [
            numpy_helper.from_array(np.array([0], np.int64), "steps"),
            *(numpy_helper.from_array(array, name) for name, array in _lstm_weights(weights).items()),
            numpy_helper.from_array(weights["3.weight"], "weight"),
            numpy_helper.from_array(weights["3.bias"], "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=list(whole.opset_import), ir_version=whole.ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def save(repository: Path) -> Path:
    """Write the model and its configuration; the answer is its directory."""
    directory = repository / NAME
    (directory / "1").mkdir(parents=True, exist_ok=True)
    onnx.save(step_from_whole(onnx.load(SOURCE)), directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(CONFIG)
    return directory


def _lstm_weights(weights: Weights) -> Weights:
    """PyTorch orders the gates input, forget, cell, output; ONNX wants input, output, forget, cell."""

    def ordered(name: str) -> npt.NDArray[np.float32]:
        first, forget, cell, output = np.split(weights[f"1.lstm.{name}_l0"], 4)
        return np.concatenate([first, output, forget, cell])[np.newaxis]

    bias = np.concatenate([ordered("bias_ih"), ordered("bias_hh")], axis=1)
    return {"W": ordered("weight_ih"), "R": ordered("weight_hh"), "B": bias}


def _tensor(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the digits LSTM as a model that is served row by row.")
    parser.add_argument("repository", type=Path, help="model repository to write into")
    print(f"wrote {save(parser.parse_args().repository)}")


if __name__ == "__main__":
    main()
