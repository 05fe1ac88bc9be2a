"""The README's commands, run as they stand."""

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
# These two run the suite that this test is part of.
NOT_HERE = ("make test", "make test-torch", "make test-rtx")


def commands() -> list[str]:
    lines = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    return [line.split("  #")[0].strip() for line in lines if line.split("  #")[0].strip() not in NOT_HERE]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project as a clone would have it, with the environment that is already installed."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in {line.split("/")[0] for line in tracked.splitlines()} - {"model_repo"}:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    (tmp_path / "model_repo").mkdir()
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    """Free ports, so that a server that already runs here is left alone."""
    ports = {f"ENGINEHOUSE_{name}_PORT": "0" for name in ("HTTP", "GRPC", "METRICS")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return {**inherited, **ports}


def serve(command: str, cwd: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run a command that serves until it is stopped; gives the port of HTTP."""
    with subprocess.Popen(
        shlex.split(command),
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen: list[str] = []
            for line in process.stdout:
                seen.append(line)
                found = re.search(r"HTTP +http://127\.0\.0\.1:(\d+)", line)
                if found:
                    yield found.group(1)
                    break
            else:
                raise AssertionError("".join(seen))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)


def test_the_commands_do_what_the_readme_says(clone: Path, environment: dict[str, str]) -> None:
    servers: list[Iterator[str]] = []
    answers: list[str] = []
    port = "8000"
    try:
        for command in commands():
            if command == "make run":
                servers.append(serve(command, clone, environment))
                port = next(servers[-1])
                continue
            words = [word.replace("127.0.0.1:8000", f"127.0.0.1:{port}") for word in shlex.split(command)]
            done = subprocess.run(
                words, cwd=clone, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if words[0] == "curl":
                answers.append(done.stdout)
    finally:
        for server in servers:
            server.close()  # type: ignore[attr-defined]
    printed = [json.loads(block) for kind, block in BLOCKS if kind == "json"]
    assert len(answers) == len(printed) == 1
    (shown,) = printed
    found = json.loads(answers[0])
    assert {**shown["outputs"][0], "data": None} == {**found["outputs"][0], "data": None}
    np.testing.assert_allclose(shown["outputs"][0]["data"], found["outputs"][0]["data"], atol=0.2)
    assert int(np.argmax(found["outputs"][0]["data"])) == 7
    published = {path.parent.parent.name for path in (clone / "model_repo").glob("*/1/evidence.json")}
    assert published == {"digits", "digits_mlp", "digits_lstm", "mine"}


def test_the_first_screen_is_one_screen() -> None:
    first = README.split("\n## ")[0].splitlines()
    assert len(first) <= 60
    assert first[0] == "# enginehouse"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
