"""A hidden folder inside the repository where a version is made, and which no crash leaves behind for good.

`.staging-*` holds a lock for as long as its build lives; the next build removes every one whose lock is free. The
folder lies in the repository so that publishing is a rename within one file system.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enginehouse.errors import InvalidInput

_PREFIX = ".staging-"
_OWNER_LOCK = "owner.lock"
_REPOSITORY_LOCK = ".publish.lock"


def check_writable(repository: Path) -> None:
    """Find out, without writing anything, whether versions can be made here; the repository may not exist yet.

    Raises:
        InvalidInput: it is not a directory, or this user may not write there.
    """
    existing = repository
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise InvalidInput(f"the model repository {repository} cannot be made: {existing} is not a directory.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidInput(
            f"the model repository {repository} cannot be written: no permission to write into {existing}. "
            "Name another with --repository, or give this user the right to write."
        )


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """Give a folder to work in, and remove it at the end; leftovers of builds that died are removed first.

    Raises:
        InvalidInput: the repository cannot be written.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with repository_lock(repository):
            _sweep(repository)
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=repository))
            lock = _take_lock(folder / _OWNER_LOCK)
    except OSError as problem:
        raise InvalidInput(
            f"the model repository {repository} cannot be written: {problem.strerror or problem}. "
            "Name another with --repository, or mend this one."
        ) from problem
    assert lock is not None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


@contextmanager
def repository_lock(repository: Path) -> Iterator[None]:
    """Hold what builds do one at a time: making and removing staging folders, and the rename that publishes."""
    descriptor = os.open(repository / _REPOSITORY_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(repository: Path) -> None:
    for folder in repository.glob(f"{_PREFIX}*"):
        descriptor = _take_lock(folder / _OWNER_LOCK)
        if descriptor is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)


def _take_lock(path: Path) -> int | None:
    """Lock a file for as long as its descriptor lives; None if someone else holds it or its folder is gone."""
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor
    return None
