"""The file of traces is whole after each write, and a disk that fails hurts nobody."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.tracing.trace_file import TraceFile


def trace(number: int) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [{"id": number}, {"id": number, "more": True}]


def test_one_file_grows_and_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text("what an earlier run left")
    for part in ([1, 2], [3]):
        file = TraceFile(str(path))
        file.save([trace(number) for number in part], is_numbered=False)
        file.save([trace(number + 10) for number in part], is_numbered=False)
        file.close()
        wanted = [*part, *(number + 10 for number in part)]
        assert [entry["id"] for entry in json.loads(path.read_text()) if "more" not in entry] == wanted


def test_parts_go_to_numbered_files(tmp_path: Path) -> None:
    file = TraceFile(str(tmp_path / "t.json"))
    for number in range(3):
        file.save([trace(number)], is_numbered=True)
    file.close()
    assert {path.name: json.loads(path.read_text())[0]["id"] for path in tmp_path.iterdir()} == {
        "t.json.0": 0,
        "t.json.1": 1,
        "t.json.2": 2,
    }


def test_it_can_go_on_after_it_was_closed(tmp_path: Path) -> None:
    file = TraceFile(str(tmp_path / "t.json"))
    file.close()
    for number in (1, 2):
        file.save([trace(number)], is_numbered=False)
        file.close()
    assert len(json.loads((tmp_path / "t.json").read_text())) == 4


def test_a_file_that_cannot_be_written_is_logged_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = TraceFile(str(tmp_path / "nowhere" / "t.json"))
    with caplog.at_level(logging.ERROR):
        file.save([trace(1)], is_numbered=False)
        file.close()
    assert "traces could not be written to" in caplog.text
