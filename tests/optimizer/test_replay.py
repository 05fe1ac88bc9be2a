import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

from enginehouse.errors import InvalidInput, VerifyFailed
from enginehouse.repository import digest
from optimizer.importers.import_model import import_model
from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.replay import Replay, check_given, read_replay
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


def forged(published: Published, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    evidence = json.loads(evidence_file(published).read_text())
    change(evidence)
    path.write_text(json.dumps(evidence))
    return path


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "an engine of 'nobody', which is none of its candidates": lambda e: e["engines"][0].update(candidate="nobody"),
    "'nobody' was chosen, which is none of its engines": lambda e: e.update(chosen="nobody"),
    "it has no digest of model.onnx": lambda e: e.update(files={}),
    r"its engines do not include model\.onnx": lambda e: e.update(engines=[]),
    "has a wrong precision: Input should be 'fp32'": lambda e: e["candidates"][1]["trial"].update(precision="int3"),
    "has no trial": lambda e: e["candidates"][1].update(trial={}),
    "in its recipe, --model is missing": lambda e: e.update(recipe={}),
    "in its recipe, --max-drop is 'much'": lambda e: e["recipe"].update(max_drop="much"),
    "its recipe has unknown options: speed": lambda e: e["recipe"].update(speed="high"),
}


def test_damaged_evidence_is_refused_in_one_sentence(options: dict[str, Any], tmp_path: Path) -> None:
    published = built(options)
    for message, damage in DAMAGES.items():
        path = forged(published, tmp_path / "damaged.json", damage)
        with pytest.raises(InvalidInput, match=rf"^--replay .*damaged\.json is no evidence .* replay: .*{message}"):
            read_replay(path)


def test_a_version_that_is_the_source_alone_is_that_again(options: dict[str, Any], tmp_path: Path) -> None:
    def leave_the_source(evidence: dict[str, Any]) -> None:
        """As where the rewritten graph is outside the tolerance, and what is inside is not better than the source."""
        evidence.update(chosen="source")
        for engine in evidence["engines"]:
            engine["candidate"] = "source"
            evidence["files"][engine["file"]] = digest(original)
        for record in evidence["candidates"]:
            if record["name"] == "fp32":
                record["verdict"] = "rejected"

    original = tmp_path / "original.onnx"
    import_model(DIGITS / "digits_mlp.onnx", tmp_path, open_batch=False).save(original)
    path = forged(built(options), tmp_path / "source.json", leave_the_source)
    again = built(options, read_replay(path))
    assert again.evidence.chosen == "source"
    assert {record.candidate for record in again.evidence.engines} == {"source"}
    assert "fp32" not in {record.name for record in again.evidence.candidates}
    assert digest(again.directory / "model.onnx") == digest(again.directory / "fallback.onnx")


def test_what_is_outside_the_tolerance_now_is_not_published(options: dict[str, Any]) -> None:
    published = built(options)
    replay, name = read_replay(evidence_file(published)), published.evidence.chosen
    assert name != "source"
    now = [
        record.model_copy(update={"verdict": "rejected" if record.name == name else "accepted", "reason": "too far"})
        for record in published.evidence.candidates
    ]
    with pytest.raises(VerifyFailed, match=r"cannot be published again, and nothing was published: too far\."):
        replay.choice(now)


def test_options_that_the_evidence_answers_are_refused(options: dict[str, Any]) -> None:
    check_given(["model", "name", "data", "cache", "no_cache", "benchmark_seconds", "repository", "replay", "dry_run"])
    with pytest.raises(InvalidInput, match="from the evidence; leave out --precision, --max-drop"):
        check_given(["replay", "precision", "max_drop"])
    replay = read_replay(evidence_file(built(options)))
    assert replay.options({"benchmark_seconds": 0.25})["benchmark_seconds"] == 0.25
    assert replay.options({})["benchmark_seconds"] == options["benchmark_seconds"]


def test_the_command_refuses_what_was_written_and_not_its_defaults(options: dict[str, Any], tmp_path: Path) -> None:
    path = evidence_file(built(options))
    command = [sys.executable, "-m", "optimizer", "build", "--replay", str(path), "--no-cache"]
    refused = subprocess.run(
        [*command, "--precision", "int4", "--engine", "openvino"], capture_output=True, text=True, check=False
    )
    sentence = "error: --replay takes its options from the evidence; leave out --precision, --engine.\n"
    assert (refused.returncode, refused.stderr) == (1, sentence)
    taken = subprocess.run(
        [*command, "--repository", str(tmp_path / "other"), "--dry-run"], capture_output=True, text=True, check=False
    )
    assert (taken.returncode, taken.stderr) == (0, "")
