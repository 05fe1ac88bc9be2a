"""Finished trials under their content address, so that a repeated or killed build makes nothing twice.

An entry is a folder, `<key>/trial.json` with the engine file beside it, that appears by one rename. Entries that were
not used for longest go when the cache has grown beyond its limit.
"""

import os
import shutil
import tempfile
from pathlib import Path

from pydantic import ValidationError

from enginehouse.errors import InvalidInput
from optimizer.search.tried import Tried

RECORD_FILE = "trial.json"
LIMIT_BYTES = 20_000_000_000


class TrialCache:
    """A folder of trials. Several builds may use one at the same time.

    Raises:
        InvalidInput: the folder cannot be made or written.
    """

    def __init__(self, root: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.root = root
        self._limit_bytes = limit_bytes
        try:
            self.states.mkdir(parents=True, exist_ok=True)
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
        """Look a trial up; an entry that cannot be read counts as none, and is removed."""
        path = self.folder(key) / RECORD_FILE
        try:
            tried = Tried.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            shutil.rmtree(self.folder(key), ignore_errors=True)
            return None
        if tried.file and not (self.folder(key) / tried.file).is_file():
            shutil.rmtree(self.folder(key), ignore_errors=True)
            return None
        os.utime(self.folder(key))
        return tried

    def new_folder(self) -> Path:
        """A folder to make an entry in; `put` moves it into place."""
        return Path(tempfile.mkdtemp(prefix=".making-", dir=self.root))

    def put(self, key: str, folder: Path, tried: Tried) -> None:
        """Keep a trial with what lies in its folder; an entry that another build made meanwhile stays."""
        (folder / RECORD_FILE).write_text(tried.model_dump_json())
        try:
            folder.rename(self.folder(key))
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
        self._make_room()

    def _make_room(self) -> None:
        entries = sorted((path for path in self.root.iterdir() if (path / RECORD_FILE).exists()), key=_last_use)
        sizes = [sum(file.stat().st_size for file in path.iterdir()) for path in entries]
        excess = sum(sizes) - self._limit_bytes
        for path, size in zip(entries[:-1], sizes, strict=False):
            if excess <= 0:
                return
            shutil.rmtree(path, ignore_errors=True)
            excess -= size


def default_root() -> Path:
    """`$XDG_CACHE_HOME/enginehouse`, which is `~/.cache/enginehouse` unless it is set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enginehouse"


def _last_use(folder: Path) -> float:
    return folder.stat().st_mtime
