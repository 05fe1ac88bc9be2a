"""What the image clients that Triton ships do: they shape an image by what a model says of itself, and print labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc.model_config_pb2 import ModelInput
from tritonclient.utils import InferenceServerException

from enginehouse.dtype import Array
from tests.conftest import RunningService, StartService
from tests.contract.triton_image_models import INCEPTION_INPUT, INCEPTION_OUTPUT, image_of_color, write_image_models

GREEN: Array = np.array([0, 3, 0], np.float32)


@pytest.fixture(scope="module")
def classifiers(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("classifiers")
    write_image_models(repository)
    with start_service(repository, "--id", "triton") as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def kind(request: pytest.FixtureRequest, classifiers: RunningService) -> Iterator[Any]:
    """A client, and the module whose words it speaks."""
    module: Any = httpclient if request.param == "http" else grpcclient
    port = classifiers.http_port if request.param == "http" else classifiers.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client, module


@pytest.mark.parametrize(
    ("model", "form", "shape", "batch"),
    [
        ("inception_graphdef", "FORMAT_NHWC", [-1, 299, 299, 3], 8),
        ("image_nchw", "FORMAT_NCHW", [3, 224, 224], 0),
    ],
)
def test_a_model_tells_which_axis_is_which(kind: Any, model: str, form: str, shape: list[int], batch: int) -> None:
    client, module = kind
    metadata, config = client.get_model_metadata(model), client.get_model_config(model)
    if module is httpclient:
        assert (metadata["inputs"][0]["shape"], metadata["outputs"][0]["datatype"]) == (shape, "FP32")
        assert (config["input"][0]["format"], config["max_batch_size"]) == (form, batch)
    else:
        assert (list(metadata.inputs[0].shape), metadata.outputs[0].datatype) == (shape, "FP32")
        assert (ModelInput.Format.Name(config.config.input[0].format), config.config.max_batch_size) == (form, batch)


def test_labels_of_a_batch_and_of_a_model_without_one(kind: Any) -> None:
    client, module = kind
    batch = np.broadcast_to(GREEN, (2, 299, 299, 3))
    found = classes(client, module, "inception_graphdef", {INCEPTION_INPUT: batch}, INCEPTION_OUTPUT)
    assert found == [["1", "green"], ["1", "green"]]
    single = np.broadcast_to(GREEN.reshape(3, 1, 1), (3, 224, 224))
    assert classes(client, module, "image_nchw", {"data_0": single}, "fc6_1") == [["1", "green"]]


def classes(client: Any, module: Any, model: str, arrays: dict[str, Array], output: str) -> list[list[str]]:
    inputs = [module.InferInput(name, list(array.shape), "FP32") for name, array in arrays.items()]
    for given, array in zip(inputs, arrays.values(), strict=True):
        given.set_data_from_numpy(np.ascontiguousarray(array))
    answer = client.infer(model, inputs, outputs=[module.InferRequestedOutput(output, class_count=1)])
    return [item.decode().split(":")[1:] for item in answer.as_numpy(output).ravel()]


def test_image_files_go_through_an_ensemble_to_their_labels(kind: Any) -> None:
    """The bytes of a file are no text: only the step in Python reads them, and the ensemble lets them in."""
    client, module = kind
    files = [image_of_color(color) for color in ((200, 10, 30), (9, 9, 240), (30, 30, 30))]
    found = ask_ensemble(client, module, files)
    assert [row[0].decode().split(":")[2] for row in found] == ["red", "blue", "dark"]
    with pytest.raises(InferenceServerException, match="This is no PPM image"):
        ask_ensemble(client, module, [b"\xff\xd8 of another kind"])


def ask_ensemble(client: Any, module: Any, files: list[bytes]) -> Array:
    given = module.InferInput("INPUT", [len(files), 1], "BYTES")
    given.set_data_from_numpy(np.array(files, object).reshape(-1, 1))
    outputs = [module.InferRequestedOutput("OUTPUT", class_count=2)]
    found: Array = client.infer("preprocess_inception_ensemble", [given], outputs=outputs).as_numpy("OUTPUT")
    return found
