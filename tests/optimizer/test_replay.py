import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from enginehouse.errors import InvalidInput, VerifyFailed
from enginehouse.repository import digest
from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.replay import Replay, read_replay
from optimizer.report.steps import Steps
from tests.conftest import DIGITS


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {
        "model": DIGITS / "digits_mlp.onnx",
        "name": "small",
        "repository": tmp_path / "repository",
        "data": str(DIGITS / "digits.npz"),
        "engine": "onnxruntime",
        "precision": "int8",
        "objective": "size",
        "max_drop": "10%",
        "benchmark_seconds": 0.005,
    }


def built(options: dict[str, Any], replay: Replay | None = None) -> Published:
    chosen = replay.options(options) if replay is not None else options
    return build(recipe_from_options(**chosen), Steps(Console(file=io.StringIO())), replay)


def evidence_file(published: Published) -> Path:
    return published.directory / "evidence.json"


def test_a_replay_makes_the_same_engines_byte_for_byte(options: dict[str, Any]) -> None:
    first = built(options)
    assert first.evidence.chosen != "source"
    again = built({**options, "cache": None}, read_replay(evidence_file(first)))
    for file in ("model.onnx", "fallback.onnx"):
        assert (again.directory / file).read_bytes() == (first.directory / file).read_bytes()
    assert (again.evidence.version, again.evidence.chosen) == (2, first.evidence.chosen)
    assert again.evidence.reason.startswith("replayed: ")


def test_a_replay_searches_nothing(options: dict[str, Any]) -> None:
    first = built(options)
    again = built(options, read_replay(evidence_file(first)))
    engines = {record.candidate for record in first.evidence.engines} - {"source"}
    assert {record.name for record in again.evidence.candidates} == engines | {"source"}


def test_another_model_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    replay = read_replay(evidence_file(built(options)))
    other = onnx.load(options["model"])
    other.producer_name = "someone else"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(InvalidInput, match=r"Replay it with the file digits_mlp\.onnx"):
        built({**options, "model": tmp_path / "other.onnx"}, replay)


def test_other_rows_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    replay = read_replay(evidence_file(built(options)))
    with np.load(options["data"]) as data:
        arrays = {name: data[name] for name in data.files}
    arrays["calibration/pixels"] = arrays["calibration/pixels"][::-1]
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(InvalidInput, match="other rows"):
        built({**options, "data": str(tmp_path / "other.npz")}, replay)


def test_other_bytes_publish_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    path = evidence_file(built(options))
    evidence = json.loads(path.read_text())
    evidence["files"]["model.onnx"] = "0" * 64
    forged = tmp_path / "forged.json"
    forged.write_text(json.dumps(evidence))
    with pytest.raises(VerifyFailed, match=r"another model\.onnx than the evidence records"):
        built(options, read_replay(forged))
    assert not (options["repository"] / "small" / "2").exists()
    assert digest(path.with_name("model.onnx")) != "0" * 64


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe"])
def test_what_is_no_evidence_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evidence.json").write_bytes(content)
    with pytest.raises(InvalidInput, match="is no evidence that this version can replay"):
        read_replay(tmp_path / "evidence.json")
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_replay(tmp_path / "missing.json")
