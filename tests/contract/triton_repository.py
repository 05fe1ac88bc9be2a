"""Models with the names, shapes and answers that the example clients shipped by Triton expect, made as ONNX files.

`python -m tests.contract.triton_repository FOLDER` writes them for whoever runs those clients: two of these count what
the repository holds, so FOLDER has `seven` models, an `eighth` one, and the `others` apart, and an image.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto, helper

from tests.contract.triton_image_models import write_image, write_image_models

VALUES = 16


def write_seven(root: Path) -> None:
    """`simple` and its kin, and sequences: what the clients that control models over HTTP count."""
    save(root, "simple", sum_and_difference(TensorProto.INT32), "max_batch_size: 8")
    save(root, "simple_int8", sum_and_difference(TensorProto.INT8), "max_batch_size: 8")
    save(root, "simple_string", sum_and_difference_of_text(), "max_batch_size: 8")
    save(root, "simple_identity", identity(TensorProto.STRING), "max_batch_size: 8")
    save(root, "simple_sequence", sequence(has_id=False), SEQUENCE + STRATEGY_DIRECT)
    save(root, "simple_dyna_sequence", sequence(has_id=True), SEQUENCE + CORRELATION_ID + STRATEGY_OLDEST)
    save(root, "simple_string_dyna_sequence", running_total(), SEQUENCE + TEXT_ID + TOTAL)


def write_eighth(root: Path) -> None:
    """A decoupled Python model: with the seven, what the clients that control models over gRPC count."""
    (root / "repeat_int32" / "1").mkdir(parents=True)
    (root / "repeat_int32" / "1" / "model.py").write_text(REPEAT)
    (root / "repeat_int32" / "config.pbtxt").write_text(REPEAT_CONFIG)


def write_others(root: Path) -> None:
    """An ensemble and an identity."""
    save(root, "custom_identity_int32", identity(TensorProto.INT32), "max_batch_size: 8")
    (root / "simple_ensemble" / "1").mkdir(parents=True)
    (root / "simple_ensemble" / "config.pbtxt").write_text(ENSEMBLE)


SEQUENCE = """
max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
sequence_batching {
  max_sequence_idle_microseconds: 5000000
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] }
"""
CORRELATION_ID = """,
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
"""
TEXT_ID = """,
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] }
"""
TOTAL = """  ]
  state [ { input_name: "TOTAL" output_name: "NEW_TOTAL" data_type: TYPE_INT32 dims: [ 1 ] } ]
  oldest { max_candidate_sequences: 4 }
}
"""
STRATEGY_DIRECT = "  ]\n}\n"
STRATEGY_OLDEST = "  ]\n  oldest { max_candidate_sequences: 4 }\n}\n"

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
ensemble_scheduling {
  step [
    {
      model_name: "simple"
      model_version: -1
      input_map { key: "INPUT0" value: "INPUT0" }
      input_map { key: "INPUT1" value: "INPUT1" }
      output_map { key: "OUTPUT0" value: "sum" }
      output_map { key: "OUTPUT1" value: "difference" }
    },
    {
      model_name: "simple"
      model_version: -1
      input_map { key: "INPUT0" value: "sum" }
      input_map { key: "INPUT1" value: "difference" }
      output_map { key: "OUTPUT0" value: "OUTPUT0" }
      output_map { key: "OUTPUT1" value: "OUTPUT1" }
    }
  ]
}
"""

REPEAT_CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "DELAY" data_type: TYPE_UINT32 dims: [ -1 ] },
  { name: "WAIT" data_type: TYPE_UINT32 dims: [ 1 ] }
]
output [
  { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "IDX" data_type: TYPE_UINT32 dims: [ 1 ] }
]
"""
REPEAT = """
import time

import numpy as np

from enginehouse.python_model import Model, Response


class Repeat(Model):
    def execute(self, requests):
        for request in requests:
            sender = request.response_sender()
            for index, element in enumerate(request.inputs["IN"]):
                time.sleep(int(request.inputs["DELAY"][index]) / 1000)
                outputs = {"OUT": np.array([element], np.int32), "IDX": np.array([index], np.uint32)}
                sender.send(Response(outputs))
            sender.finish()
"""


def save(root: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    directory = root / name / "1"
    directory.mkdir(parents=True)
    onnx.save(model, directory / "model.onnx")
    (root / name / "config.pbtxt").write_text(config)


def sum_and_difference(onnx_type: int) -> onnx.ModelProto:
    """INPUT0 + INPUT1 and INPUT0 - INPUT1; ONNX Runtime adds no bytes, so small integers are widened."""
    nodes = []
    for name in ("INPUT0", "INPUT1"):
        nodes.append(helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.INT32))
    for operator, output in (("Add", "OUTPUT0"), ("Sub", "OUTPUT1")):
        nodes.append(helper.make_node(operator, ["INPUT0_wide", "INPUT1_wide"], [f"{output}_wide"]))
        nodes.append(helper.make_node("Cast", [f"{output}_wide"], [output], to=onnx_type))
    return model_of(nodes, [value(name, onnx_type) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")])


def sum_and_difference_of_text() -> onnx.ModelProto:
    """The same of whole numbers written as text."""
    return sum_and_difference(TensorProto.STRING)


def identity(onnx_type: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])]
    return model_of(nodes, [value("INPUT0", onnx_type), value("OUTPUT0", onnx_type)])


def sequence(*, has_id: bool) -> onnx.ModelProto:
    """What came in, one more where a sequence starts; with ids, plus the sequence's own where it ends."""
    controls = ["START", "END", "READY"]
    nodes = [helper.make_node("Add", ["INPUT", "START"], ["started"])]
    values = [value(name, TensorProto.INT32, 1) for name in ("INPUT", *controls)]
    if has_id:
        values.append(value("CORRID", TensorProto.UINT64, 1))
        nodes.append(helper.make_node("Cast", ["CORRID"], ["id"], to=TensorProto.INT32))
        nodes.append(helper.make_node("Mul", ["id", "END"], ["end_id"]))
    else:
        nodes.append(helper.make_node("Sub", ["END", "END"], ["end_id"]))
    nodes.append(helper.make_node("Sub", ["READY", "READY"], ["nothing"]))
    nodes.append(helper.make_node("Add", ["started", "end_id"], ["ended"]))
    nodes.append(helper.make_node("Add", ["ended", "nothing"], ["OUTPUT"]))
    return model_of(nodes, [*values, value("OUTPUT", TensorProto.INT32, 1)])


def running_total() -> onnx.ModelProto:
    """The sum of what came in, which the server keeps as a state, plus the sequence's own number where it ends."""
    integers = [value(name, TensorProto.INT32, 1) for name in ("INPUT", "START", "END", "READY", "TOTAL")]
    nodes = [
        helper.make_node("Add", ["INPUT", "TOTAL"], ["NEW_TOTAL"]),
        helper.make_node("Cast", ["CORRID"], ["id"], to=TensorProto.INT32),
        helper.make_node("Mul", ["id", "END"], ["end_id"]),
        helper.make_node("Sub", ["READY", "READY"], ["nothing"]),
        helper.make_node("Mul", ["START", "nothing"], ["nothing_either"]),
        helper.make_node("Add", ["end_id", "nothing_either"], ["more"]),
        helper.make_node("Add", ["NEW_TOTAL", "more"], ["OUTPUT"]),
    ]
    results = [value(name, TensorProto.INT32, 1) for name in ("OUTPUT", "NEW_TOTAL")]
    return model_of(nodes, [*integers, value("CORRID", TensorProto.STRING, 1), *results])


def value(name: str, onnx_type: int, size: int = VALUES) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, onnx_type, ["batch", size])


def model_of(nodes: Sequence[onnx.NodeProto], values: Sequence[ValueInfoProto]) -> onnx.ModelProto:
    outputs = [one for one in values if one.name.startswith(("OUTPUT", "NEW_"))]
    inputs = [one for one in values if one not in outputs]
    graph = helper.make_graph(nodes, "simple", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    write_seven(FOLDER / "seven")
    write_eighth(FOLDER / "eighth")
    write_others(FOLDER / "others")
    write_image_models(FOLDER / "others")
    write_image(FOLDER / "image.ppm")
