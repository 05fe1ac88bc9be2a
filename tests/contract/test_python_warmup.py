"""Python models are warm before they are ready, may ask other models for it, and do not serve if it fails."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import StartService
from tests.contract.conftest import make_simple_model, save_model
from tests.contract.test_python_models import CONFIGS, PIPELINE, add_python_model

SAMPLE = """
    model_warmup {
        name: "both"
        inputs { key: "INPUT0" value { data_type: TYPE_INT32 dims: [ 16 ] random_data: true } }
        inputs { key: "INPUT1" value { data_type: TYPE_INT32 dims: [ 16 ] zero_data: true } }
    }
"""


@pytest.fixture(scope="module")
def client(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root: Path = tmp_path_factory.mktemp("warmup")
    save_model(root, "simple", make_simple_model())
    add_python_model(root, "pipeline", PIPELINE, CONFIGS["pipeline"] + SAMPLE)
    with (
        start_service(root, "--model-control-mode", "explicit") as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as made,
    ):
        yield made


def test_a_warm_up_that_fails_keeps_the_model_from_serving_and_is_named(client: Any) -> None:
    with pytest.raises(InferenceServerException) as problem:
        client.load_model("pipeline")
    # It asks a model that is not there yet.
    assert "model_warmup 'both': the other model: Request for unknown model: 'simple'" in str(problem.value)
    (row,) = [one for one in client.get_model_repository_index() if one["name"] == "pipeline"]
    assert row["state"] == "UNAVAILABLE"
    assert "model_warmup 'both'" in row["reason"]
    assert not client.is_model_ready("pipeline")


def test_a_warm_up_may_ask_a_model_that_is_ready(client: Any) -> None:
    client.load_model("simple")
    client.load_model("pipeline")
    assert client.is_model_ready("pipeline")
    # Nobody asked the one; the other was asked twice by it.
    assert client.get_inference_statistics("pipeline")["model_stats"][0]["inference_count"] == 0
    assert client.get_inference_statistics("simple")["model_stats"][0]["inference_count"] == 2
