"""A model repository: what is a model, what is a version, and whether its files are what was published."""

import hashlib
from pathlib import Path

import pytest

from enginehouse.errors import CorruptVersion, NotFound
from enginehouse.evidence import GOLDEN_FILE, Evidence
from enginehouse.repository import Repository, check_digests, check_file_digests, digest
from tests.enginehouse.conftest import make_evidence


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    root = tmp_path / "models"
    for directory in (
        "b/2",
        "b/10",
        "b/1",
        "b/007",
        "b/v3",
        "b/.4",
        "b/0",
        "empty",
        ".git/1",
        ".staging/2",
        "configured",
    ):
        (root / directory).mkdir(parents=True)
    (root / "configured" / "config.pbtxt").touch()
    (root / "b" / "5").touch()
    (root / "README.md").touch()
    (tmp_path / "outside" / "1").mkdir(parents=True)
    return Repository(root)


def test_models_are_directories_with_a_configuration_or_a_version(repository: Repository) -> None:
    assert repository.model_names() == ["b", "configured"]


def test_what_looks_like_a_model_and_is_none_is_told_what_it_lacks(repository: Repository) -> None:
    assert repository.overlooked() == []
    for file in (
        "flat/model.onnx",
        "named/v1/model.onnx",
        "gone/withdrawn.1/model.onnx",
        "notes/read.me",
        ".x/model.py",
    ):
        path = repository.root / file
        path.parent.mkdir(parents=True)
        path.touch()
    flat, named = repository.root / "flat", repository.root / "named"
    assert repository.overlooked() == [
        f"{flat} is no model: it has no version. Put its files into {flat / '1'}.",
        f"{named} is no model: it has no version. Put its files into {named / '1'}.",
    ]


def test_a_model_that_is_taken_for_a_repository_is_told_so(repository: Repository) -> None:
    model = repository.root / "b"
    assert Repository(model).overlooked() == [f"{model} is itself a model; name the directory that holds it."]


def test_versions_are_whole_numbers_without_leading_zeros_oldest_first(repository: Repository) -> None:
    assert repository.versions("b") == [1, 2, 10]
    assert repository.versions("configured") == []


def test_withdrawn_versions_are_listed_apart_and_a_model_of_nothing_else_is_none(repository: Repository) -> None:
    for name in ("b/withdrawn.12", "b/withdrawn.3", "b/withdrawn.x", "b/4.withdrawn", "configured/withdrawn.1"):
        (repository.root / name).mkdir()
    (repository.root / "b" / "withdrawn.5").touch()
    assert repository.versions("b") == [1, 2, 10]
    assert repository.withdrawn_versions("b") == [3, 12]
    assert repository.model_names() == ["b"]
    assert repository.withdrawn_versions("configured") == [1]
    for name in ("nobody", "../outside", "README.md"):
        with pytest.raises(NotFound, match=f"model '{name}' is not in"):
            repository.withdrawn_versions(name)


def test_a_version_has_its_directory_or_is_not_found(repository: Repository) -> None:
    assert repository.version_directory("b", 10) == repository.root / "b" / "10"
    for version in (3, 5):
        with pytest.raises(NotFound, match=f"model 'b' has no version {version}"):
            repository.version_directory("b", version)


@pytest.mark.parametrize(
    "name",
    ["nobody", "", ".", "..", "../outside", "b/../b", "b/1", "/etc", ".git", "empty", "README.md", "a\0b", "n" * 5000],
)
def test_a_name_that_is_no_model_is_not_found_wherever_it_leads(repository: Repository, name: str) -> None:
    with pytest.raises(NotFound, match="failed to poll from model repository"):
        repository.model_directory(name)


def test_an_absolute_name_does_not_leave_the_repository(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        repository.model_directory(str(tmp_path / "outside"))


def test_a_repository_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nowhere", "file"):
        with pytest.raises(NotFound, match=f"{name} does not exist or is not a directory"):
            Repository(tmp_path / name).model_names()


def test_a_digest_is_sha_256_over_more_than_one_chunk(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Evidence]:
    for name in ("model.onnx", "fallback.onnx", GOLDEN_FILE, "notes.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path, make_evidence({path.name: digest(path) for path in tmp_path.iterdir()})


def test_a_version_as_it_was_published_passes(published: tuple[Path, Evidence]) -> None:
    check_digests(*published)


@pytest.mark.parametrize("name", ["model.onnx", "fallback.onnx", GOLDEN_FILE, "notes.txt"])
def test_a_changed_or_missing_file_is_named(published: tuple[Path, Evidence], name: str) -> None:
    directory, evidence = published
    (directory / name).write_text("changed")
    with pytest.raises(CorruptVersion, match=rf"{name} has SHA-256 \w{{12}}…, the evidence says"):
        check_digests(directory, evidence)
    (directory / name).unlink()
    with pytest.raises(CorruptVersion, match=f"{name} is missing"):
        check_digests(directory, evidence)


@pytest.mark.parametrize("name", ["model.onnx", "fallback.onnx", GOLDEN_FILE])
def test_a_file_that_serves_without_a_digest_is_refused(published: tuple[Path, Evidence], name: str) -> None:
    directory, evidence = published
    files = {key: value for key, value in evidence.files.items() if key != name}
    with pytest.raises(CorruptVersion, match=f"{name} has no digest in the evidence"):
        check_digests(directory, evidence.model_copy(update={"files": files}))


@pytest.mark.parametrize("name", ["../outside", "sub/file", "", ".", "sub"])
def test_a_digest_speaks_only_of_files_of_its_own_version(published: tuple[Path, Evidence], name: str) -> None:
    directory, evidence = published
    (directory / "sub").mkdir()
    (directory / "sub" / "file").touch()
    (directory.parent / "outside").touch()
    with pytest.raises(CorruptVersion, match="is missing"):
        check_digests(directory, evidence.model_copy(update={"files": {**evidence.files, name: "00"}}))


def test_some_files_can_be_checked_although_others_changed(published: tuple[Path, Evidence]) -> None:
    directory, evidence = published
    (directory / "model.onnx").write_text("changed")
    check_file_digests(directory, evidence, ["fallback.onnx", GOLDEN_FILE])
    with pytest.raises(CorruptVersion):
        check_file_digests(directory, evidence, ["model.onnx"])


def test_a_look_tells_every_file_of_every_model_and_what_changed(repository: Repository) -> None:
    for path in ("b/2/model.onnx", "b/config.pbtxt", "b/.4/x", "b/2/.x", ".git/1/x"):
        (repository.root / path).write_text("some")
    before = repository.look()
    assert {name: sorted(files) for name, files in before.items()} == {
        "b": ["2/model.onnx", "5", "config.pbtxt"],
        "configured": ["config.pbtxt"],
    }
    assert repository.look() == before
    (repository.root / "b" / "2" / "model.onnx").write_text("other")
    after = repository.look()
    assert [path for path, state in after["b"].items() if before["b"][path] != state] == ["2/model.onnx"]


def test_a_look_follows_links_but_not_in_a_ring(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "outside" / "1" / "model.onnx").touch()
    (repository.root / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "1" / "again").symlink_to(tmp_path / "outside")
    assert list(repository.look()["linked"]) == ["1/model.onnx"]
