"""Classifiers of images with the names and shapes that Triton's image clients expect, and images for them.

They look only at how red, green and blue an image is; what they say of it can be told by hand.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from enginehouse.dtype import Array

SIDE = 299
CLASSES = ("red", "green", "blue", "dark")
INCEPTION_INPUT, INCEPTION_OUTPUT = "input", "InceptionV3/Predictions/Softmax"

CONFIG = """
max_batch_size: {batch}
input [ {{ name: "{input}" data_type: TYPE_FP32 format: {format} dims: [ {dims} ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }} ]
"""
PREPROCESS_CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "ENCODED" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "PIXELS" data_type: TYPE_FP32 dims: [ 299, 299, 3 ] } ]
"""
PREPROCESS = r"""
import re

import numpy as np

from enginehouse.python_model import InvalidRequest, Model, Response


def pixels_from_ppm(encoded):
    header = re.match(rb"P6\s(\d+)\s(\d+)\s255\s", encoded)
    if header is None:
        raise InvalidRequest("This is no PPM image.")
    width, height = int(header[1]), int(header[2])
    image = np.frombuffer(encoded, np.uint8, offset=header.end()).reshape(height, width, 3)
    rows, columns = np.arange(299) * height // 299, np.arange(299) * width // 299
    return image[rows][:, columns].astype(np.float32) / 127.5 - 1


class Preprocess(Model):
    def execute(self, requests):
        return [
            Response({"PIXELS": np.stack([pixels_from_ppm(encoded) for (encoded,) in request.inputs["ENCODED"]])})
            for request in requests
        ]
"""
ENSEMBLE_CONFIG = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" } ]
ensemble_scheduling {
  step [
    {
      model_name: "image_preprocess" model_version: -1
      input_map { key: "ENCODED" value: "INPUT" }
      output_map { key: "PIXELS" value: "pixels" }
    },
    {
      model_name: "inception_graphdef" model_version: -1
      input_map { key: "input" value: "pixels" }
      output_map { key: "InceptionV3/Predictions/Softmax" value: "OUTPUT" }
    }
  ]
}
"""


def write_image_models(root: Path) -> None:
    """Two that read height, width, channel; one that reads channel, height, width, unbatched; an ensemble for files."""
    for name in ("inception_graphdef", "densenet_onnx"):
        config = {"batch": 8, "format": "FORMAT_NHWC", "dims": f"{SIDE}, {SIDE}, 3"}
        write_classifier(root / name, INCEPTION_INPUT, INCEPTION_OUTPUT, config)
    config = {"batch": 0, "format": "FORMAT_NCHW", "dims": "3, 224, 224"}
    write_classifier(root / "image_nchw", "data_0", "fc6_1", config)
    (root / "image_preprocess" / "1").mkdir(parents=True)
    (root / "image_preprocess" / "1" / "model.py").write_text(PREPROCESS)
    (root / "image_preprocess" / "config.pbtxt").write_text(PREPROCESS_CONFIG)
    ensemble = root / "preprocess_inception_ensemble"
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(ENSEMBLE_CONFIG)
    (ensemble / "labels.txt").write_text("\n".join(CLASSES))


def write_classifier(directory: Path, given: str, answered: str, config: dict[str, object]) -> None:
    (directory / "1").mkdir(parents=True)
    is_batched = bool(config["batch"])
    onnx.save(color_classifier(given, answered, is_batched=is_batched), directory / "1" / "model.onnx")
    (directory / "config.pbtxt").write_text(CONFIG.format(input=given, output=answered, **config))
    (directory / "labels.txt").write_text("\n".join(CLASSES))


def color_classifier(given: str, answered: str, *, is_batched: bool) -> onnx.ModelProto:
    """Softmax of the mean of each channel, and of nought for `dark`."""
    shape: list[str | int] = ["n", SIDE, SIDE, 3] if is_batched else [3, 224, 224]
    axes = [1, 2]
    constants = [
        numpy_helper.from_array(np.array(axes, np.int64), "axes"),
        numpy_helper.from_array(np.eye(3, 4, dtype=np.float32), "weights"),
    ]
    nodes = [
        helper.make_node("ReduceMean", [given, "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], [answered], axis=-1),
    ]
    answer: list[str | int] = ["n", 4] if is_batched else [4]
    graph = helper.make_graph(
        nodes,
        "color",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(answered, TensorProto.FLOAT, answer)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def image_of_color(color: tuple[int, int, int], width: int = 30, height: int = 20) -> bytes:
    """A PPM file: what a client reads with an image library, and our step in the ensemble without one."""
    pixels: Array = np.full((height, width, 3), color, np.uint8)
    return b"P6\n%d %d\n255\n" % (width, height) + pixels.tobytes()


def write_image(file: Path) -> None:
    file.write_bytes(image_of_color((20, 200, 40)))
