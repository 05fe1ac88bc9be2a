"""The response cache over a real server, with the real clients."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.conftest import ROOT, RunningService, StartService, make_identity_model
from tests.contract.conftest import make_simple_model, save_model
from tests.contract.test_ensemble import HALVES, inputs, int_tensors, rows, save_ensemble

CACHED = "response_cache { enable: true }"


@pytest.fixture(scope="module")
def caching(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    repository = tmp_path_factory.mktemp("cached")
    save_model(repository, "simple", make_simple_model(), CACHED)
    save_model(repository, "uncached", make_simple_model())
    save_model(repository, "identity", make_identity_model())
    pair = int_tensors("INPUT0", "INPUT1"), int_tensors("OUTPUT0", "OUTPUT1")
    save_ensemble(repository, "doubled", HALVES, *pair)
    save_ensemble(repository, "doubled_cached", HALVES, *pair)
    with (repository / "doubled_cached" / "config.pbtxt").open("a") as config:
        config.write(CACHED)
    flags = ["--cache-config", "local,size=1048576", "--model-control-mode", "explicit", "--load-model", "*"]
    with start_service(repository, *flags) as running:
        yield running


@pytest.fixture
def client(caching: RunningService) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{caching.http_port}") as opened:
        yield opened


def counts(client: Any, name: str) -> dict[str, int]:
    (stats,) = client.get_inference_statistics(name)["model_stats"]
    kinds = ("success", "cache_hit", "cache_miss", "compute_infer")
    return {kind: stats["inference_stats"][kind]["count"] for kind in kinds} | {"rows": stats["inference_count"]}


def grown(client: Any, name: str, before: dict[str, int]) -> dict[str, int]:
    return {kind: count - before[kind] for kind, count in counts(client, name).items()}


def test_a_request_that_was_answered_before_is_answered_without_its_model(caching: RunningService, client: Any) -> None:
    before = counts(client, "simple")
    first, second = rows(2, 500), rows(2, 90)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{caching.grpc_port}") as other:
        answers = [
            client.infer("simple", inputs(triton_http, first, second), request_id="one"),
            client.infer("simple", inputs(triton_http, first, second), request_id="two"),
            other.infer("simple", inputs(triton_grpc, first, second), request_id="three"),
        ]
    for answer in answers:
        assert np.array_equal(answer.as_numpy("OUTPUT0"), first + second)
        assert np.array_equal(answer.as_numpy("OUTPUT1"), first - second)
    assert answers[1].get_response()["id"] == "two"
    assert grown(client, "simple", before) == {
        "success": 3,
        "cache_hit": 2,
        "cache_miss": 1,
        "compute_infer": 1,
        "rows": 2,
    }


def test_a_model_that_does_not_ask_for_it_computes_every_time(client: Any) -> None:
    before = counts(client, "uncached")
    for _ in range(2):
        client.infer("uncached", inputs(triton_http, rows(1), rows(1)))
    assert grown(client, "uncached", before) == {
        "success": 2,
        "cache_hit": 0,
        "cache_miss": 0,
        "compute_infer": 2,
        "rows": 2,
    }


def test_a_reloaded_model_starts_with_nothing(client: Any) -> None:
    asked = inputs(triton_http, rows(1, 77), rows(1))
    client.infer("simple", asked)
    client.load_model("simple")
    before = counts(client, "simple")
    client.infer("simple", asked)
    assert grown(client, "simple", before)["cache_hit"] == 0


def test_an_ensemble_has_entries_of_its_own_and_uses_those_of_its_steps(client: Any) -> None:
    asked = inputs(triton_http, rows(1, 31), rows(1, 8))
    steps = counts(client, "simple")
    client.infer("doubled", asked)
    assert grown(client, "simple", steps)["cache_miss"] == 2
    answer = client.infer("doubled_cached", asked)
    assert np.array_equal(answer.as_numpy("OUTPUT0"), 2 * rows(1, 31))
    assert grown(client, "simple", steps)["cache_hit"] == 2
    own = counts(client, "doubled_cached")
    client.infer("doubled_cached", asked)
    assert grown(client, "doubled_cached", own)["cache_hit"] == 1
    assert grown(client, "simple", steps)["cache_hit"] == 2


def test_an_ensemble_forgets_what_a_step_that_is_no_more_answered(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "simple", make_simple_model())
    tensors = int_tensors("INPUT0", "INPUT1"), int_tensors("OUTPUT0", "OUTPUT1")
    save_ensemble(tmp_path, "doubled", HALVES, *tensors)
    with (tmp_path / "doubled" / "config.pbtxt").open("a") as config:
        config.write(CACHED)
    asked = inputs(triton_http, rows(1, 3), rows(1))
    flags = ["--response-cache-byte-size", "100000", "--model-control-mode", "explicit", "--load-model", "*"]
    with (
        start_service(tmp_path, *flags) as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        for hits in (0, 1):
            assert np.array_equal(client.infer("doubled", asked).as_numpy("OUTPUT0"), 2 * rows(1, 3))
            assert counts(client, "doubled")["cache_hit"] == hits
        turned = make_simple_model()
        turned.graph.node[1].input.reverse()
        save_model(tmp_path, "simple", turned, version=2)
        client.load_model("simple")
        assert np.array_equal(client.infer("doubled", asked).as_numpy("OUTPUT0"), 2 * rows(1))


def test_the_metrics_of_the_cache_are_those_of_the_models_that_use_it(caching: RunningService, client: Any) -> None:
    asked = inputs(triton_http, rows(1, 12), rows(1, 1))
    for _ in range(2):
        client.infer("simple", asked)
    text = urllib.request.urlopen(f"http://127.0.0.1:{caching.metrics_port}/metrics").read().decode()
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("nv_cache"))
    told = counts(client, "simple")
    labels = '{model="simple",version="1"}'
    assert int(values[f"nv_cache_num_hits_per_model{labels}"]) == told["cache_hit"] > 0
    assert int(values[f"nv_cache_num_misses_per_model{labels}"]) == told["cache_miss"] > 0
    assert int(values[f"nv_cache_hit_duration_per_model{labels}"]) > 0
    assert int(values[f"nv_cache_miss_duration_per_model{labels}"]) > 0
    assert not [name for name in values if "uncached" in name]


def test_a_model_that_asks_for_a_cache_where_there_is_none_still_serves(
    start_service: StartService, tmp_path: Path
) -> None:
    save_model(tmp_path, "simple", make_simple_model(), CACHED)
    with (
        start_service(tmp_path) as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        for _ in range(2):
            client.infer("simple", inputs(triton_http, rows(1), rows(1)))
        assert counts(client, "simple")["compute_infer"] == 2
        assert "model 'simple' asks for the response cache; there is none without --cache-config" in running.output


def test_a_cache_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--model-repository", str(tmp_path)]
    run = subprocess.run(
        [*command, "--cache-config", "redis,host=here"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 2
    assert "expected 'local,size=BYTES'" in run.stderr
