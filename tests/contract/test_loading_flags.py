"""Flags that decide how models are loaded, on a real server."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.conftest import StartService
from tests.contract.conftest import save_model
from tests.contract.test_poll import factor
from tests.service.conftest import make_scale_model


def get(url: str) -> Any:
    return json.load(urllib.request.urlopen(url))


def test_a_custom_configuration_counts_where_a_model_has_it(start_service: StartService, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_model(tmp_path, name, make_scale_model(2), "max_batch_size: 4")
    (tmp_path / "a" / "configs").mkdir()
    (tmp_path / "a" / "configs" / "large.pbtxt").write_text("max_batch_size: 64")
    with start_service(tmp_path, "--model-config-name", "large") as service:
        sizes = [get(f"{service.url}/v2/models/{name}/config")["max_batch_size"] for name in ("a", "b")]
        assert sizes == [64, 4]


def test_a_model_that_would_not_fit_is_not_tried(start_service: StartService, tmp_path: Path) -> None:
    save_model(tmp_path, "a", make_scale_model(2))
    with start_service(
        tmp_path, "--model-load-memory-limit", "0.00000000001", "--strict-readiness", "false"
    ) as service:
        (row,) = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
        assert row["state"] == "UNAVAILABLE"
        assert "would need about" in row["reason"]
        assert "MB are available" in row["reason"]
    with start_service(tmp_path, "--model-load-memory-limit", "off", "--model-load-thread-count", "1") as service:
        assert factor(service, "a") == 2


def test_a_model_is_warmed_up_before_it_answers(start_service: StartService, tmp_path: Path) -> None:
    sample = "inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ %d ] random_data: true } }"
    for name, size in (("good", 2), ("bad", 3)):
        text = f"max_batch_size: 4 model_warmup {{ name: 'first' batch_size: 4 count: 2 {sample % size} }}"
        save_model(tmp_path, name, make_scale_model(2), text)
    with start_service(tmp_path, "--strict-readiness", "false") as service:
        assert factor(service, "good") == 2
        rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
        reasons = {row["name"]: row.get("reason", "") for row in rows}
        assert "model_warmup 'first': unexpected shape for input 'x'" in reasons["bad"]
        assert not reasons["good"]
