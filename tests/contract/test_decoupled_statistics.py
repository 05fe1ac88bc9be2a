"""What is counted of the responses of a decoupled model, told by both transports."""

from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conftest import RunningService, StartService
from tests.contract.test_python_models import CONFIGS, REPEAT, Stream, add_python_model


@pytest.fixture(scope="module")
def service(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("decoupled")
    add_python_model(repository, "repeat", REPEAT, CONFIGS["repeat"])
    with start_service(repository) as running:
        yield running


def counts(row: dict[str, dict[str, Any]]) -> dict[str, int]:
    """How often each thing happened, of those that did."""
    found = {name: int(duration.get("count", 0)) for name, duration in row.items()}
    return {name: count for name, count in found.items() if count}


def test_each_response_is_counted_at_its_place_and_the_end_without_outputs_too(service: RunningService) -> None:
    with (
        triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as grpc,
        triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as http,
    ):
        stream = Stream(grpc)
        for count in (2, 0, 2):
            stream.ask(count, f"r{count}", pause=0.02)
        stream.collect(3)
        grpc.stop_stream()
        (by_grpc,) = grpc.get_inference_statistics("repeat", as_json=True)["model_stats"]
        (by_http,) = http.get_inference_statistics("repeat")["model_stats"]
    assert {place: counts(row) for place, row in by_http["response_stats"].items()} == {
        "0": {"compute_infer": 3, "compute_output": 2, "success": 2, "empty_response": 1},
        "1": {"compute_infer": 2, "compute_output": 2, "success": 2},
        "2": {"compute_infer": 2, "empty_response": 2},
    }
    # The model pauses after each of its four responses.
    rows = by_http["response_stats"].values()
    assert sum(row["success"]["ns"] + row["empty_response"]["ns"] for row in rows) >= 4 * 20_000_000
    for place, row in by_http["response_stats"].items():
        told = {name: {key: int(value) for key, value in one.items()} for name, one in row.items()}
        other = {
            name: {"count": int(one.get("count", 0)), "ns": int(one.get("ns", 0))}
            for name, one in by_grpc["response_stats"][place].items()
        }
        assert told == other
    assert by_http["inference_stats"]["success"]["count"] == 3
