"""Finished trials under their content address, so that a repeated or killed build makes nothing twice.

An entry is a folder, `<key>/trial.json` with the engine file beside it, that appears by one rename. Entries that were
not used for longest go when the cache has grown beyond its limit.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from enginehouse.errors import InvalidInput
from enginehouse.repository import digest
from optimizer.search.tried import Tried

RECORD_FILE = "trial.json"
LIMIT_BYTES = 20_000_000_000
LEAST_AGE_SECONDS = 86_400.0
_MAKING = ".making-"


class _Entry(BaseModel):
    """What is written: the trial, and the digest of each file beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tried: Tried
    files: dict[str, str]


class TrialCache:
    """A folder of trials. Several builds may use one at the same time.

    Raises:
        InvalidInput: the folder cannot be made or written.
    """

    def __init__(
        self, root: Path, limit_bytes: int = LIMIT_BYTES, least_age_seconds: float = LEAST_AGE_SECONDS
    ) -> None:
        self.root = root
        self._limit_bytes = limit_bytes
        self._least_age_seconds = least_age_seconds
        try:
            self.states.mkdir(parents=True, exist_ok=True)
            self._sweep()
        except OSError as problem:
            raise InvalidInput(
                f"the cache {root} cannot be written: {problem.strerror or problem}. Name another with --cache, or "
                "build with --no-cache."
            ) from problem

    @property
    def states(self) -> Path:
        """Where interrupted calibrations are kept."""
        return self.root / "calibrations"

    def folder(self, key: str) -> Path:
        return self.root / key

    def get(self, key: str) -> Tried | None:
        """Look a trial up; an entry that is not what was put counts as none, and is removed."""
        folder = self.folder(key)
        try:
            entry = _Entry.model_validate_json((folder / RECORD_FILE).read_bytes())
            if entry.files != _digests(folder):
                raise FileNotFoundError
            os.utime(folder)
        except (OSError, ValidationError):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return entry.tried

    def new_folder(self) -> Path:
        """A folder to make an entry in; `put` moves it into place."""
        return Path(tempfile.mkdtemp(prefix=_MAKING, dir=self.root))

    def put(self, key: str, folder: Path, tried: Tried) -> None:
        """Keep a trial with what lies in its folder; an entry that another build made meanwhile stays."""
        (folder / RECORD_FILE).write_text(_Entry(tried=tried, files=_digests(folder)).model_dump_json())
        try:
            folder.rename(self.folder(key))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        self._make_room()

    def _make_room(self) -> None:
        """Remove what was not used for longest, but nothing that a build of today may still need."""
        entries = sorted(self._entries())
        excess = sum(size for _, size, _ in entries) - self._limit_bytes
        for last_use, size, path in entries:
            if excess <= 0 or time.time() - last_use < self._least_age_seconds:
                return
            shutil.rmtree(path, ignore_errors=True)
            excess -= size

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When each entry was used last, its size and its place; what other builds move meanwhile is passed over."""
        for path in self.root.iterdir():
            with suppress(OSError):
                if not path.name.startswith(_MAKING) and (path / RECORD_FILE).exists():
                    yield path.stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path

    def _sweep(self) -> None:
        """Remove what builds that were killed were making a day ago or longer."""
        for path in self.root.glob(f"{_MAKING}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEAST_AGE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)


def default_root() -> Path:
    """`$XDG_CACHE_HOME/enginehouse`, which is `~/.cache/enginehouse` unless it is set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enginehouse"


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != RECORD_FILE}
