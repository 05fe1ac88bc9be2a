"""A real server over a real S3 server on the loopback: what lies in the bucket is served, followed and cached."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import s3fs
from moto.server import ThreadedMotoServer

from tests.conftest import ROOT, RunningService, StartService
from tests.contract.conftest import ask, index, load, publish_digits, save_model
from tests.contract.test_poll import eventually, factor
from tests.service.conftest import make_scale_model

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class Bucket:
    """A bucket, and how a server reaches it."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.endpoint = endpoint
        self.url = f"s3://{name}/models"
        self.environment = {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
        self.system = s3fs.S3FileSystem(
            key="test", secret="test", client_kwargs={"endpoint_url": endpoint}, use_listings_cache=False
        )
        self.system.mkdir(name)

    def put(self, directory: Path, path: str) -> None:
        self.system.put(f"{directory}/", f"{self.url}/{path}/", recursive=True)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Bucket]:
    made = Bucket(endpoint, f"bucket-{uuid4()}")
    yield made
    made.system.rm(made.url.removeprefix("s3://").split("/")[0], recursive=True)


@pytest.fixture
def start(start_service: StartService, bucket: Bucket, tmp_path: Path) -> Callable[..., Any]:
    def begin(*flags: str, url: str = "", environment: dict[str, str] | None = None) -> Any:
        cache = ("--repository-cache", str(tmp_path / "cache"))
        return start_service(url or bucket.url, *cache, *flags, environment=environment or bucket.environment)

    return begin


def names(service: RunningService) -> list[str]:
    rows = json.load(urllib.request.urlopen(f"{service.url}/v2/repository/index", b""))
    return [row["name"] for row in rows]


def test_a_published_model_serves_from_a_bucket_and_again_from_the_cache(
    start: Callable[..., Any], bucket: Bucket, tmp_path: Path
) -> None:
    publish_digits(tmp_path / "published")
    bucket.put(tmp_path / "published" / "digits", "digits")
    for _ in range(2):
        with start() as service:
            assert index(service) == {"1": {"name": "digits", "version": "1", "state": "READY"}}
            assert ask(service)["model_version"] == "1"
    (copy,) = (tmp_path / "cache").glob("*/digits/1/model.onnx")
    assert copy.read_bytes() == (tmp_path / "published" / "digits" / "1" / "model.onnx").read_bytes()


def test_a_version_whose_files_are_not_those_of_its_evidence_does_not_serve(
    start: Callable[..., Any], bucket: Bucket, tmp_path: Path
) -> None:
    publish_digits(tmp_path / "published")
    (tmp_path / "published" / "digits" / "1" / "model.onnx").write_bytes(b"half of it")
    bucket.put(tmp_path / "published" / "digits", "digits")
    with start() as service:
        assert index(service)["1"]["reason"].startswith("degraded: fallback.onnx serves because")


def test_a_bucket_is_followed(start: Callable[..., Any], bucket: Bucket, tmp_path: Path) -> None:
    save_model(tmp_path, "a", make_scale_model(1))
    bucket.put(tmp_path / "a", "a")
    with start("--model-control-mode", "poll", "--repository-poll-secs", "0.2") as service:
        assert factor(service, "a") == 1
        save_model(tmp_path, "a", make_scale_model(2), version=2)
        bucket.put(tmp_path / "a" / "2", "a/2")
        save_model(tmp_path, "b", make_scale_model(3))
        bucket.put(tmp_path / "b", "b")
        eventually(lambda: [factor(service, "a"), factor(service, "b")], [2, 3])
        bucket.system.rm(f"{bucket.url}/b", recursive=True)
        eventually(lambda: factor(service, "b"), None)


def test_a_store_of_ones_own_is_named_in_the_url_and_a_model_that_comes_later_is_found(
    start: Callable[..., Any], bucket: Bucket, tmp_path: Path
) -> None:
    save_model(tmp_path, "a", make_scale_model(1))
    bucket.put(tmp_path / "a", "a")
    url = bucket.url.replace("s3://", f"s3://{bucket.endpoint}/")
    with start("--model-control-mode", "explicit", url=url, environment=CREDENTIALS) as service:
        save_model(tmp_path, "b", make_scale_model(3))
        bucket.put(tmp_path / "b", "b")
        eventually(lambda: sorted(names(service)), ["a", "b"])
        for name, expected in (("a", 1), ("b", 3)):
            load(service, name)
            assert factor(service, name) == expected


def test_a_bucket_that_is_not_there_ends_the_server_with_one_sentence(
    endpoint: str, bucket: Bucket, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "service", "--model-repository", "s3://no-such-bucket/models"]
    ended = subprocess.run(
        [*command, "--repository-cache", str(tmp_path)],
        env={**os.environ, **bucket.environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("error: model repository s3://no-such-bucket/models ")
