import os
from pathlib import Path

import pytest

from optimizer.publish.durable import flush_folder, rename


def test_a_rename_moves_a_folder_and_never_replaces_one(tmp_path: Path) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    assert not rename(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text() == "old"
    assert rename(tmp_path / "new", tmp_path / "third")
    assert (tmp_path / "third" / "file").read_text() == "new"


def test_another_fault_of_the_system_is_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "nothing", tmp_path / "target")


def test_what_was_written_and_renamed_is_on_disk_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    flush_folder(tmp_path / "folder")
    assert synced == ["file", "folder"]
    rename(tmp_path / "folder", tmp_path / "renamed")
    assert synced[2:] == [tmp_path.name]
