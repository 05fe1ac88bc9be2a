"""`evidence.json` is read as it was written, or not at all."""

import json
from math import inf, isnan, nan
from pathlib import Path

import pytest

from enginehouse.errors import CorruptVersion
from enginehouse.evidence import EVIDENCE_FILE, WorstSample, read_evidence, write_evidence
from tests.enginehouse.conftest import make_evidence


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    evidence = make_evidence({"model.onnx": "00"})
    write_evidence(evidence, tmp_path)
    assert read_evidence(tmp_path) == evidence


def test_a_version_without_evidence_is_a_foreign_one(tmp_path: Path) -> None:
    assert read_evidence(tmp_path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": "2"},
        {"surprise": 1},
        {"golden": None},
        {"engines": [{"file": "model.onnx"}]},
        {"version": "x"},
    ],
)
def test_evidence_of_another_form_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    fields = json.loads(make_evidence({}).model_dump_json()) | change
    (tmp_path / EVIDENCE_FILE).write_text(json.dumps(fields))
    with pytest.raises(CorruptVersion, match="is not evidence of schema version 2"):
        read_evidence(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 10_000, b'{"schema_version": 1'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / EVIDENCE_FILE).write_bytes(content)
    with pytest.raises(CorruptVersion, match="Build the version again"):
        read_evidence(tmp_path)


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / EVIDENCE_FILE).mkdir()
    with pytest.raises(CorruptVersion):
        read_evidence(tmp_path)


@pytest.mark.parametrize("version", [1, 3])
def test_evidence_of_another_release_says_which_and_what_to_do(tmp_path: Path, version: int) -> None:
    (tmp_path / EVIDENCE_FILE).write_text(json.dumps({"schema_version": version, "model": "m"}))
    sentence = rf"evidence\.json is evidence of schema version {version}, and this release reads version 2\. Build"
    with pytest.raises(CorruptVersion, match=sentence):
        read_evidence(tmp_path)


def test_engines_are_found_by_their_role() -> None:
    evidence = make_evidence({})
    assert evidence.engine_file("chosen").file == "model.onnx"
    assert evidence.engine_file("fallback").file == "fallback.onnx"
    alone = evidence.model_copy(update={"engines": evidence.engines[:1]})
    with pytest.raises(CorruptVersion, match="evidence of m version 1 names no fallback engine"):
        alone.engine_file("fallback")


def test_values_that_are_not_finite_come_back_as_they_were(tmp_path: Path) -> None:
    worst = WorstSample(row=0, output="y", difference=inf, source=(1.0, -inf), built=(nan, 2.0))
    write_evidence(make_evidence({}, worst=worst), tmp_path)
    found = read_evidence(tmp_path)
    assert found is not None
    assert found.worst is not None
    assert (found.worst.difference, found.worst.source) == (inf, (1.0, -inf))
    assert isnan(found.worst.built[0])
