"""A model repository in a bucket, or behind any other URL that fsspec reads; served from a copy in a local cache."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from enginehouse.errors import NotFound, NotReady
from enginehouse.remote_files import RemoteFile, RemoteFiles
from enginehouse.repository import CONFIG_FILE, WITHDRAWN_PREFIX, Listing, digest, version_from_name

# Where the state of what was fetched is written; names that begin with a dot are nobody's model.
_STATE_FOLDER = ".fetched"
_OWN = "own"

_Files = Mapping[str, RemoteFile]


class RemoteRepository:
    """Looks at the bucket each time, and fetches only what changed since it was last fetched.

    A model's own files and each of its versions are fetched apart, a version only when it is asked for.
    Its files come under another name, and get theirs in one step.

    Args:
        url: such as `s3://bucket/models`, `gs://…`, `as://…`.
        cache: directory for the copies; servers of one machine may share it.
    """

    def __init__(self, url: str, cache: Path) -> None:
        self._files = RemoteFiles(url)
        self._url = url
        self._root = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._models: dict[str, dict[str, RemoteFile]] = {}
        self._verified: set[Path] = set()

    def __str__(self) -> str:
        return self._url

    def model_names(self) -> list[str]:
        """List the models, as of the last look."""
        return sorted(self._models)

    def look(self) -> Listing:
        """List every file of every model, and what tells its state.

        Raises:
            NotFound: nothing lies there. An emptied bucket is taken for a mistake, not for a wish to unload all.
            NotReady: the bucket cannot be read now.
        """
        models = _models_from_files(self._files.list(""))
        if not models:
            raise NotFound(f"model repository {self._url} holds no model, or does not exist.")
        self._models = models
        return {name: {path: file.state for path, file in files.items()} for name, files in models.items()}

    def model_directory(self, name: str) -> Path:
        """Fetch the model's own files as they are now; raises `NotFound` or `NotReady`."""
        files = _models_from_files(self._files.list(name)).get(name) if _is_name(name) else None
        if files is None:
            self._models.pop(name, None)
            raise NotFound(f"failed to poll from model repository: model '{name[:100]}' is not in {self._url}.")
        self._models[name] = files
        with self._locked(name) as directory:
            own = {path: file for path, file in files.items() if version_from_name(path.partition("/")[0]) is None}
            self._fetch_own(directory, own)
            for path in directory.iterdir():
                number = version_from_name(path.name)
                if number is not None and number not in self._versions(name):
                    shutil.rmtree(path, ignore_errors=True)
        return directory

    def versions(self, name: str) -> list[int]:
        """List a model's version numbers, oldest first, as of the last look at the model."""
        if name not in self._models:
            self.model_directory(name)
        return self._versions(name)

    def version_directory(self, name: str, version: int) -> Path:
        """Fetch a version, unless the cache has it as it was at the last look; raises `NotFound` or `NotReady`."""
        prefix = f"{version}/"
        if version not in self.versions(name):
            raise NotFound(f"model '{name}' has no version {version} in {self._url}.")
        files = {
            path.removeprefix(prefix): file for path, file in self._models[name].items() if path.startswith(prefix)
        }
        with self._locked(name) as directory:
            if not self._is_there(directory, str(version), files, directory / str(version)):
                self._fetch_version(directory, version, files)
        return directory / str(version)

    def _versions(self, name: str) -> list[int]:
        numbers = {version_from_name(path.split("/")[0]) for path in self._models[name] if "/" in path}
        return sorted(number for number in numbers if number is not None)

    def _fetch_own(self, directory: Path, files: _Files) -> None:
        """Each file gets its name by itself; what is gone from the bucket goes."""
        if self._is_there(directory, _OWN, files, directory):
            return
        with _temporary(directory) as folder:
            digests = self._download(files, folder)
            for there in _own_files(directory):
                if there.relative_to(directory).as_posix() not in files:
                    there.unlink()
            for path in files:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).replace(directory / path)
        _write_state(directory, _OWN, files, digests)

    def _fetch_version(self, directory: Path, version: int, files: _Files) -> None:
        target = directory / str(version)
        with _temporary(directory) as folder:
            fresh, old = folder / "fresh", folder / "old"
            digests = self._download(files, fresh)
            if target.exists():
                target.rename(old)
            fresh.rename(target)
        _write_state(directory, str(version), files, digests)

    def _download(self, files: _Files, folder: Path) -> dict[str, str]:
        """Fetch files into a folder and tell their digests."""
        for path, file in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._files.download(file, target)
            found = target.stat().st_size
            if found != file.size:
                raise NotReady(
                    f"{file.path} in {self._url} has {found} bytes, {file.size} were listed: it is being changed. "
                    "Load the model again when that is done."
                )
        return {path: digest(folder / path) for path in files}

    def _is_there(self, directory: Path, part: str, files: _Files, folder: Path) -> bool:
        """Whether the cache holds these files; their digests are compared once for each time they were fetched."""
        state = _read_state(directory, part)
        if state.get("states") != {path: file.state for path, file in files.items()}:
            return False
        key = directory / part
        if key not in self._verified and not _digests_hold(folder, state["digests"]):
            return False
        self._verified.add(key)
        return True

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """Keep other threads and other servers away from a model's copy."""
        directory = self._root / name
        try:
            (directory / _STATE_FOLDER).mkdir(parents=True, exist_ok=True)
            with (directory / _STATE_FOLDER / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield directory
        except OSError as problem:
            raise NotReady(
                f"model '{name}' cannot be copied to {directory}: {problem.strerror or problem}. "
                "Give --repository-cache a directory with enough space that can be written."
            ) from problem


def _models_from_files(files: _Files) -> dict[str, dict[str, RemoteFile]]:
    """Sort files by model; what holds neither a configuration nor a version is none.

    Names with a part that is empty or begins with a dot are nobody's: so none leads out of the cache.
    """
    models: dict[str, dict[str, RemoteFile]] = {}
    for path, file in files.items():
        name, _, inside = path.partition("/")
        parts = [name, *inside.split("/")]
        if all(part and not part.startswith(".") for part in parts) and not parts[1].startswith(WITHDRAWN_PREFIX):
            models.setdefault(name, {})[inside] = file
    return {name: found for name, found in models.items() if _is_model(found)}


def _is_model(files: Mapping[str, RemoteFile]) -> bool:
    has_version = any("/" in path and version_from_name(path.split("/")[0]) is not None for path in files)
    return has_version or CONFIG_FILE in files


def _own_files(directory: Path) -> list[Path]:
    """What the copy of a model holds besides versions and our own notes."""
    tops = [path for path in directory.iterdir() if not path.name.startswith(".")]
    tops = [path for path in tops if version_from_name(path.name) is None]
    return [file for top in tops for file in [top, *top.rglob("*")] if file.is_file()]


def _is_name(name: str) -> bool:
    return bool(name) and "/" not in name and "\0" not in name and not name.startswith(".") and len(name) <= 255


def _read_state(directory: Path, part: str) -> dict[str, Any]:
    try:
        state = json.loads((directory / _STATE_FOLDER / f"{part}.json").read_text())
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(directory: Path, part: str, files: _Files, digests: Mapping[str, str]) -> None:
    """Written last: until then what was fetched counts as not there."""
    path = directory / _STATE_FOLDER / f"{part}.json"
    text = json.dumps({"states": {name: file.state for name, file in files.items()}, "digests": dict(digests)})
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def _digests_hold(folder: Path, digests: Mapping[str, str]) -> bool:
    try:
        return all(digest(folder / path) == expected for path, expected in digests.items())
    except OSError:
        return False


@contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=directory))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
