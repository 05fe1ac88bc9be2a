"""The soak in its short form: a large model is reloaded under load for 30 seconds, and memory comes back."""

from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton_http

from benchmarks.running_server import running_server
from benchmarks.soak import Soak, save_large_model, soak, table

MB = 10**6


def test_30_seconds_of_reloads_fail_no_request_and_keep_no_memory() -> None:
    outcome = soak(seconds=30, megabytes=100)
    assert outcome.failures == []
    assert len(outcome.reloads) >= 5
    assert len(outcome.busy) > len(outcome.reloads), "it was under load"
    assert outcome.memory[0] > 100 * MB, "the model was loaded before the first reload"
    assert outcome.growth <= 0.05
    assert outcome.holds


def test_what_an_unloaded_model_held_goes_back_to_the_machine(tmp_path: Path) -> None:
    width = save_large_model(tmp_path / "large", 100)
    with (
        running_server(tmp_path, "--model-control-mode", "explicit") as server,
        triton_http.InferenceServerClient(f"127.0.0.1:{server.http_port}") as client,
    ):
        x = triton_http.InferInput("x", [1, width], "FP32")
        x.set_data_from_numpy(np.ones((1, width), np.float32))
        # The libraries that the first load brings stay.
        for _ in range(2):
            client.load_model("large")
            client.infer("large", [x])
            loaded = server.memory_bytes()
            client.unload_model("large")
            unloaded = server.memory_bytes()
            assert loaded - unloaded > 95 * MB
        before = unloaded
        for _ in range(3):
            client.load_model("large")
            client.infer("large", [x])
            client.unload_model("large")
        assert server.memory_bytes() < before + 5 * MB


def test_the_table_tells_what_was_seen_and_failures_do_not_hold() -> None:
    outcome = Soak([0.001], [0.002, 0.003], [], [0.5], [100 * MB, 104 * MB])
    assert outcome.holds
    assert outcome.growth == pytest.approx(0.04)
    assert not Soak([0.001], [0.002], [], [0.5], [100 * MB, 106 * MB]).holds
    assert not Soak([0.001], [0.002], ["a request was answered 500"], [0.5], [100 * MB, 100 * MB]).holds
    assert not Soak([0.001], [0.002], [], [], [100 * MB]).holds
    cells = [next(iter(column.cells)) for column in table(outcome, 30, 100).columns]
    assert cells == ["1", "3", "0", "100", "104", "104", "+4.0%", "1.0", "1.0", "3.0", "3.0", "0.50"]
