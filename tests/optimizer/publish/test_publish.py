from pathlib import Path
from typing import Any

import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import AlreadyExists
from enginehouse.evidence import Evidence, Golden, Source, read_evidence
from enginehouse.hardware import this_hardware
from enginehouse.model_config import config_from_specs, text_from_config
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.repository import Repository, check_digests
from enginehouse.tensor import TensorSpec
from optimizer.publish import publish as publishing
from optimizer.publish.durable import rename
from optimizer.publish.publish import check_config, next_version, publish
from optimizer.publish.staging import staging
from optimizer.publish.withdrawal import withdraw

X = TensorSpec("x", DTYPES["FP32"], (-1, 4))
Y = TensorSpec("y", DTYPES["FP32"], (-1, 3))


def config(max_batch_size: int = 32, outputs: tuple[TensorSpec, ...] = (Y,)) -> ModelConfig:
    return config_from_specs("small", "onnxruntime_onnx", [X], outputs, max_batch_size, {})


def evidence(version: int) -> Evidence:
    return Evidence(
        schema_version=2,
        model="small",
        version=version,
        created_at="2026-01-01T00:00:00+00:00",
        source=Source(file="small.onnx", format="onnx", sha256="0", size_bytes=1),
        recipe={},
        passes=(),
        candidates=(),
        chosen="source",
        reason="",
        test=None,
        engines=(),
        golden=Golden(rows=1, synthetic=True),
        threads=1,
        hardware=this_hardware(),
        libraries={},
        files={},
    )


def published(repository: Path, chosen: ModelConfig | None = None) -> int:
    with staging(repository) as workdir:
        files = workdir / "version"
        files.mkdir()
        for name in ("model.onnx", "golden.npz"):
            (files / name).write_bytes(name.encode())
        return publish(repository, chosen or config(), files, workdir, evidence).version


def test_the_first_version_comes_with_the_configuration(tmp_path: Path) -> None:
    assert published(tmp_path) == 1
    names = [path.name for path in (tmp_path / "small").iterdir()]
    assert sorted(names) == ["1", "config.pbtxt"]
    assert (tmp_path / "small" / "config.pbtxt").read_text() == text_from_config(config())


def test_the_evidence_knows_its_number_and_every_file(tmp_path: Path) -> None:
    published(tmp_path)
    published(tmp_path)
    directory = Repository(tmp_path).version_directory("small", 2)
    found = read_evidence(directory)
    assert found is not None
    assert found.version == 2
    assert set(found.files) == {path.name for path in directory.iterdir()} - {"evidence.json"}
    check_digests(directory, found)


def test_the_next_free_number_is_above_everything_that_is_there(tmp_path: Path) -> None:
    published(tmp_path)
    (tmp_path / "small" / "7").mkdir()
    (tmp_path / "small" / "notes").mkdir()
    assert next_version(tmp_path / "small") == 8
    assert published(tmp_path) == 8
    assert next_version(tmp_path / "other") == 1


def test_the_number_of_a_withdrawn_version_is_never_given_again(tmp_path: Path) -> None:
    published(tmp_path)
    published(tmp_path)
    withdraw(tmp_path, "small", 2)
    assert next_version(tmp_path / "small") == 3
    assert published(tmp_path) == 3


def test_a_number_that_someone_took_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published(tmp_path)
    monkeypatch.setattr(publishing, "next_version", lambda _: 1)
    assert published(tmp_path) == 2
    found = read_evidence(tmp_path / "small" / "2")
    assert found is not None
    assert found.version == 2


def test_a_model_that_someone_made_meanwhile_gets_the_next_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def race(path: Path, target: Path) -> bool:
        if not calls:
            (target / "1").mkdir(parents=True)
            (target / "config.pbtxt").write_text(text_from_config(config()))
        calls.append(target)
        return rename(path, target)

    monkeypatch.setattr(publishing, "rename", race)
    assert published(tmp_path) == 2
    assert [path.name for path in calls] == ["small", "2"]


def test_a_different_configuration_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    published(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AlreadyExists, match=r"max_batch_size: .*32.* is published, .*8.* was built"):
        published(tmp_path, config(max_batch_size=8))
    with pytest.raises(AlreadyExists, match="output: "):
        published(tmp_path, config(outputs=(TensorSpec("z", DTYPES["FP32"], (-1, 3)),)))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_the_operator_edits_is_kept(tmp_path: Path) -> None:
    published(tmp_path)
    path = tmp_path / "small" / "config.pbtxt"
    edited = path.read_text() + "\ninstance_group { count: 2 }\n"
    path.write_text(edited)
    assert published(tmp_path) == 2
    assert path.read_text() == edited


def test_what_a_configuration_leaves_out_is_no_difference(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.pbtxt").write_text('platform: "onnxruntime_onnx"\nmax_batch_size: 32\n')
    check_config(tmp_path / "small", config())
    assert published(tmp_path) == 1


def test_a_model_without_configuration_gets_one(tmp_path: Path) -> None:
    (tmp_path / "small" / "3").mkdir(parents=True)
    assert published(tmp_path) == 4
    assert (tmp_path / "small" / "config.pbtxt").exists()


def test_nothing_is_visible_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bool:
        raise OSError("the disk is full")

    monkeypatch.setattr(publishing, "rename", fail)
    with pytest.raises(OSError, match="the disk is full"):
        published(tmp_path)
    assert Repository(tmp_path).model_names() == []
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert list(tmp_path.glob(".staging-*")) == []
