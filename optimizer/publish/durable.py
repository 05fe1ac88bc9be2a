"""Renames and files that a crash cannot take back."""

import errno
import os
from pathlib import Path

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def rename(path: Path, target: Path) -> bool:
    """Rename in one step and wait until it is on disk; False if something is at the target already."""
    try:
        path.rename(target)
    except OSError as problem:
        if problem.errno in _TAKEN:
            return False
        raise
    flush(target.parent)
    return True


def flush_folder(folder: Path) -> None:
    """Wait until a folder's files and their names are on disk."""
    for path in sorted(folder.iterdir()):
        flush(path)
    flush(folder)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
