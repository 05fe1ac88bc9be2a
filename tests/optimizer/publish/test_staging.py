import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput
from optimizer.publish.staging import check_writable, repository_lock, staging

HOLD = """
import sys
from pathlib import Path
from optimizer.publish.staging import staging
with staging(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("a version")
    print(folder, flush=True)
    sys.stdin.read()
"""


def leftovers(repository: Path) -> list[Path]:
    return sorted(repository.glob(".staging-*"))


def holder(repository: Path) -> tuple["subprocess.Popen[str]", Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(repository)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate()


def test_the_folder_lies_in_the_repository_and_goes_away(tmp_path: Path) -> None:
    with staging(tmp_path / "new" / "repository") as folder:
        assert folder.parent == tmp_path / "new" / "repository"
        assert folder.name.startswith(".")
    assert not folder.exists()


def test_it_goes_away_after_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staging(tmp_path):
        raise KeyError
    assert leftovers(tmp_path) == []


def test_the_folder_of_a_killed_build_is_swept_by_the_next(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    end(process)
    assert leftovers(tmp_path) == [folder]
    with staging(tmp_path) as own:
        assert leftovers(tmp_path) == [own]


def test_the_folder_of_a_living_build_is_left_alone(tmp_path: Path) -> None:
    process, folder = holder(tmp_path)
    with staging(tmp_path):
        assert (folder / "half").read_text() == "a version"
    end(process)
    assert leftovers(tmp_path) == []


def test_a_folder_whose_build_died_before_it_took_its_lock_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".staging-early").mkdir()
    with staging(tmp_path) as own:
        assert leftovers(tmp_path) == [own]


def test_only_one_holds_the_repository(tmp_path: Path) -> None:
    probe = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with repository_lock(tmp_path):
        lock = next(tmp_path.glob(".*lock"))
        refused = subprocess.run([sys.executable, "-c", probe, str(lock)], capture_output=True, check=False)
    assert b"BlockingIOError" in refused.stderr
    assert subprocess.run([sys.executable, "-c", probe, str(lock)], check=False).returncode == 0


def test_a_file_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InvalidInput, match="file is not a directory"):
            check_writable(path)


def test_a_repository_that_is_not_there_yet_can_be_written_and_is_not_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(InvalidInput, match="no permission to write"):
        check_writable(tmp_path / "repository")


def test_a_file_system_that_refuses_is_a_clear_error() -> None:
    with pytest.raises(InvalidInput, match="/proc/enginehouse cannot be written"), staging(Path("/proc/enginehouse")):
        pass
