"""A real server in mode poll, over two repositories, follows what happens in them."""

import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model
from tests.service.conftest import make_scale_model

FLAGS = ("--model-control-mode", "poll", "--repository-poll-secs", "0.1")
PATIENCE_SECONDS = 30


def factor(service: RunningService, name: str) -> float | None:
    """What a model multiplies by; None while it does not answer."""
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}") as client:
        x = triton_http.InferInput("x", [1, 2], "FP32")
        x.set_data_from_numpy(np.ones((1, 2), np.float32))
        try:
            return float(client.infer(name, [x]).as_numpy("y")[0, 0])
        except InferenceServerException:
            return None


def eventually(tell: Callable[[], Any], expected: Any) -> None:
    """Wait for what the server will find by itself; there is no event to wait for from outside."""
    end = time.monotonic() + PATIENCE_SECONDS
    while (found := tell()) != expected:
        assert time.monotonic() < end, f"{found} instead of {expected}"
        time.sleep(0.05)


def test_models_are_loaded_reloaded_and_unloaded_as_two_repositories_say(
    start_service: StartService, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    save_model(first, "a", make_scale_model(1))
    save_model(second, "b", make_scale_model(2))
    with start_service(first, "--model-repository", str(second), *FLAGS) as service:
        assert [factor(service, "a"), factor(service, "b")] == [1, 2]
        save_model(second, "a2", make_scale_model(3))
        save_model(first, "a", make_scale_model(4), version=2)
        eventually(lambda: [factor(service, "a"), factor(service, "a2")], [4, 3])
        shutil.rmtree(second / "b")
        eventually(lambda: factor(service, "b"), None)
        (first / "a" / "config.pbtxt").write_text("version_policy { specific { versions: [ 1 ] } }")
        eventually(lambda: factor(service, "a"), 1)
        (first / "a" / "config.pbtxt").write_text("nonsense")
        eventually(lambda: "failed to load 'a'" in service.output, True)
        assert factor(service, "a") == 1
        assert urllib.request.urlopen(f"{service.url}/v2/health/ready").status == 200
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{service.url}/v2/repository/models/a/load", b"{}")
        assert refusal.value.code == 503
        assert "explicit model load / unload is not allowed if polling is enabled" in json.load(refusal.value)["error"]
