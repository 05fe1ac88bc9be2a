"""A version that does not prove itself on this machine does not serve; what serves instead says so everywhere."""

import json
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.evidence import EVIDENCE_FILE
from enginehouse.repository import digest
from tests.conftest import StartService
from tests.contract.conftest import ask, index, load, metrics, publish_digits


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one version, as the optimizer makes it."""
    repository = tmp_path_factory.mktemp("published")
    publish_digits(repository)
    return repository


@pytest.fixture
def repository(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "models")
    return tmp_path / "models"


def weaken(version: Path, is_digest_kept: bool) -> None:
    """Change the weights of the published engine; with the digests kept, only the golden samples can tell."""
    path = version / "model.onnx"
    model = onnx.load(path)
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = numpy_helper.to_array(largest)
    largest.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1]), largest.name))
    onnx.save(model, path)
    if is_digest_kept:
        evidence = json.loads((version / EVIDENCE_FILE).read_text())
        evidence["files"]["model.onnx"] = digest(path)
        (version / EVIDENCE_FILE).write_text(json.dumps(evidence))


def add_version(repository: Path, number: int) -> Path:
    version = repository / "digits" / str(number)
    shutil.copytree(repository / "digits" / "1", version)
    return version


def test_an_untouched_version_is_not_degraded(start_service: StartService, repository: Path) -> None:
    with start_service(repository) as service:
        assert index(service) == {"1": {"name": "digits", "version": "1", "state": "READY"}}
        assert 'enginehouse_model_degraded{model="digits",version="1"} 0' in metrics(service)
        assert 'enginehouse_golden_failures_total{model="digits",version="1"} 0' in metrics(service)


@pytest.mark.parametrize(("is_digest_kept", "message"), [(False, "SHA-256"), (True, "golden output 'logits' differs")])
def test_without_a_previous_version_the_fallback_serves(
    start_service: StartService, repository: Path, is_digest_kept: bool, message: str
) -> None:
    weaken(repository / "digits" / "1", is_digest_kept)
    with start_service(repository) as service:
        row = index(service)["1"]
        assert row["state"] == "READY"
        assert row["reason"].startswith("degraded: fallback.onnx serves because")
        assert message in row["reason"]
        assert int(np.argmax(ask(service)["outputs"][0]["data"])) == 7
        assert 'enginehouse_model_degraded{model="digits",version="1"} 1' in metrics(service)
        failures = f'enginehouse_golden_failures_total{{model="digits",version="1"}} {int(is_digest_kept)}'
        assert failures in metrics(service)
    assert "model 'digits' is degraded: fallback.onnx serves because" in service.output


def test_the_previous_version_serves_before_any_fallback(start_service: StartService, repository: Path) -> None:
    weaken(add_version(repository, 2), is_digest_kept=True)
    with start_service(repository) as service:
        rows = index(service)
        assert rows["2"]["state"] == "UNAVAILABLE"
        assert "golden output 'logits' differs" in rows["2"]["reason"]
        assert rows["1"]["state"] == "READY"
        assert "degraded: version 1 serves because" in rows["1"]["reason"]
        assert ask(service)["model_version"] == "1"
        assert 'enginehouse_golden_failures_total{model="digits",version="2"} 1' in metrics(service)


def test_a_live_version_stays_when_its_successor_fails(start_service: StartService, repository: Path) -> None:
    with start_service(repository, "--model-control-mode", "explicit", "--load-model", "digits") as service:
        weaken(add_version(repository, 2), is_digest_kept=True)
        with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
            load(service)
        assert "golden output 'logits' differs" in json.load(refusal.value)["error"]
        assert ask(service)["model_version"] == "1"
        assert "degraded: version 1 still serves because" in index(service)["1"]["reason"]
        shutil.rmtree(repository / "digits" / "2")
        add_version(repository, 3)
        load(service)
        assert ask(service)["model_version"] == "3"
        assert index(service)["3"] == {"name": "digits", "version": "3", "state": "READY"}
