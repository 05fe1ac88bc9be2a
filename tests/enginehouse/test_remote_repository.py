"""A repository behind a URL: looked at anew each time, fetched only where it changed, and never half a version."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from enginehouse.errors import InvalidInput, MissingExtra, NotFound, NotReady
from enginehouse.remote_files import RemoteFiles
from enginehouse.remote_repository import RemoteRepository


class Bucket:
    """A store in memory, and a repository over it."""

    def __init__(self, cache: Path) -> None:
        self.system = fsspec.filesystem("memory")
        self.url = f"memory://{uuid4()}"
        self.cache = cache
        self.repository = RemoteRepository(self.url, cache)
        self.downloads: list[str] = []

    def put(self, path: str, content: str) -> None:
        self.system.pipe(f"{self.url}/{path}", content.encode())

    def remove(self, path: str) -> None:
        self.system.rm(f"{self.url}/{path}", recursive=True)

    def again(self) -> RemoteRepository:
        """The repository as another server sees it."""
        return RemoteRepository(self.url, self.cache)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    made = Bucket(tmp_path / "cache")
    for path in ("m/config.pbtxt", "m/labels/a.txt", "m/1/model.onnx", "m/2/model.onnx", "m/2/deep/weights.bin"):
        made.put(path, path)
    made.put("n/3/model.onnx", "three")
    real = RemoteFiles.download

    def download(self: RemoteFiles, file: Any, target: Path) -> None:
        made.downloads.append(file.path.split("/", 2)[2])
        real(self, file, target)

    monkeypatch.setattr(RemoteFiles, "download", download)
    yield made
    made.system.rm(made.url, recursive=True)


def test_models_and_versions_are_those_of_the_bucket(bucket: Bucket) -> None:
    for nobodys in (
        "README.md",
        "empty/readme",
        "m/.git/x",
        ".hidden/1/model.onnx",
        "m/withdrawn.4/model.onnx",
        "m/05/x",
    ):
        bucket.put(nobodys, "")
    assert bucket.repository.model_names() == [], "before the first look"
    listing = bucket.repository.look()
    assert bucket.repository.model_names() == ["m", "n"]
    assert sorted(listing["m"]) == [
        *("05/x", "1/model.onnx", "2/deep/weights.bin", "2/model.onnx", "config.pbtxt", "labels/a.txt")
    ]
    assert bucket.again().versions("m") == [1, 2]
    assert str(bucket.repository) == bucket.url


def test_only_what_is_asked_for_is_fetched_and_only_once(bucket: Bucket) -> None:
    directory = bucket.repository.model_directory("m")
    assert (directory / "config.pbtxt").read_text() == "m/config.pbtxt"
    assert (directory / "labels" / "a.txt").read_text() == "m/labels/a.txt"
    assert sorted(bucket.downloads) == ["m/config.pbtxt", "m/labels/a.txt"]
    bucket.downloads.clear()
    version = bucket.repository.version_directory("m", 2)
    assert version == directory / "2"
    assert (version / "deep" / "weights.bin").read_text() == "m/2/deep/weights.bin"
    assert sorted(bucket.downloads) == ["m/2/deep/weights.bin", "m/2/model.onnx"]
    bucket.downloads.clear()
    for repository in (bucket.repository, bucket.again()):
        assert repository.model_directory("m") == directory
        assert repository.version_directory("m", 2) == version
    assert bucket.downloads == []


def test_what_changed_in_the_bucket_is_fetched_again_and_what_is_gone_goes(bucket: Bucket) -> None:
    before = bucket.repository.look()
    directory = bucket.repository.model_directory("m")
    for version in (1, 2):
        bucket.repository.version_directory("m", version)
    bucket.downloads.clear()
    bucket.put("m/2/model.onnx", "other")
    bucket.put("m/config.pbtxt", "changed")
    bucket.remove("m/labels")
    bucket.remove("m/1")
    after = bucket.repository.look()
    assert before["m"]["2/model.onnx"] != after["m"]["2/model.onnx"]
    assert before["m"]["2/deep/weights.bin"] == after["m"]["2/deep/weights.bin"]
    bucket.repository.model_directory("m")
    assert (bucket.repository.version_directory("m", 2) / "model.onnx").read_text() == "other"
    assert sorted(bucket.downloads) == ["m/2/deep/weights.bin", "m/2/model.onnx", "m/config.pbtxt"]
    assert not (directory / "1").exists()
    assert not (directory / "labels" / "a.txt").exists()
    assert bucket.repository.versions("m") == [2]
    with pytest.raises(NotFound, match="model 'm' has no version 1 in memory"):
        bucket.repository.version_directory("m", 1)


def test_a_copy_that_was_damaged_is_fetched_again_by_the_next_server(bucket: Bucket) -> None:
    version = bucket.repository.version_directory("n", 3)
    (version / "model.onnx").write_text("rotten")
    assert (bucket.again().version_directory("n", 3) / "model.onnx").read_text() == "three"
    (version / "model.onnx").unlink()
    assert (bucket.again().version_directory("n", 3) / "model.onnx").read_text() == "three"
    (version.parent / ".fetched" / "3.json").write_text("[")
    assert (bucket.again().version_directory("n", 3) / "model.onnx").read_text() == "three"


def test_a_download_that_ends_early_leaves_what_was_there(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    version = bucket.repository.version_directory("m", 2)
    bucket.put("m/2/model.onnx", "a longer content than before")
    bucket.repository.look()

    def fail(_: RemoteFiles, file: Any, target: Path) -> None:
        target.write_text("half")

    monkeypatch.setattr(RemoteFiles, "download", fail)
    with pytest.raises(NotReady, match=r"has 4 bytes, \d+ were listed: it is being changed"):
        bucket.repository.version_directory("m", 2)
    assert (version / "model.onnx").read_text() == "m/2/model.onnx"
    assert [path.name for path in version.parent.iterdir() if path.name.startswith(".fetching")] == []
    monkeypatch.undo()
    assert (bucket.repository.version_directory("m", 2) / "model.onnx").read_text() == "a longer content than before"


def test_unknown_models_are_not_found_and_an_empty_bucket_is_a_mistake(bucket: Bucket) -> None:
    for name in ("nobody", "..", "", "a/b", ".m", "\0", "n" * 5000):
        with pytest.raises(NotFound, match="failed to poll from model repository"):
            bucket.repository.model_directory(name)
    with pytest.raises(NotFound, match="holds no model, or does not exist"):
        RemoteRepository("memory://nowhere-at-all", bucket.cache).look()


def test_a_cache_that_cannot_be_written_is_named(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match=r"cannot be copied to .*Give --repository-cache a directory"):
        RemoteRepository(bucket.url, tmp_path / "file").model_directory("m")


def test_two_servers_may_share_a_cache(bucket: Bucket) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: bucket.again().version_directory("m", 2), range(4)))
    assert {(path / "deep" / "weights.bin").read_text() for path in paths} == {"m/2/deep/weights.bin"}
    assert len(bucket.downloads) == 2 + 2, "the model's own files and one version, once"
    state = json.loads((bucket.repository.model_directory("m") / ".fetched" / "2.json").read_text())
    assert sorted(state["digests"]) == ["deep/weights.bin", "model.onnx"]


def test_urls_that_nothing_reads_and_libraries_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nonsense://x: Protocol not known"):
        RemoteRepository("nonsense://x", tmp_path)
    with pytest.raises(MissingExtra, match=r"needs the library 'adlfs'.*enginehouse\[azure\]"):
        RemoteRepository("as://account/container", tmp_path)
