"""Read a model repository: its models, their versions, and whether a version's files are what was published."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from enginehouse.errors import CorruptVersion, NotFound
from enginehouse.evidence import GOLDEN_FILE, EngineRecord, Evidence

CONFIG_FILE = "config.pbtxt"
# At most 18 digits: the protocol counts versions in 64 bits.
_VERSION_NAME = re.compile(r"[1-9][0-9]{0,17}")
_CHUNK_BYTES = 1 << 20

# Before the number, not after it: Triton reads a directory called `2.anything` as version 2.
WITHDRAWN_PREFIX = "withdrawn."

Listing = Mapping[str, Mapping[str, str]]
"""What lies in a repository: of each model every file, by its path inside the model, and what tells its state."""


class Repository:
    """A directory of models in Triton's layout. Names that begin with a dot are nobody's model."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def model_names(self) -> list[str]:
        """List the models: every directory that holds a configuration or a version, unless all were withdrawn.

        Raises:
            NotFound: the repository itself is not there.
        """
        if not self.root.is_dir():
            raise NotFound(f"model repository {self.root} does not exist or is not a directory.")
        return sorted(path.name for path in self.root.iterdir() if self._is_model(path))

    def model_directory(self, name: str) -> Path:
        """Find a model; raises `NotFound`, also for names that would leave the repository."""
        path = self.root / name
        if path.parent != self.root or not self._is_model(path):
            raise NotFound(f"failed to poll from model repository: model '{name}' is not in {self.root}.")
        return path

    def versions(self, name: str) -> list[int]:
        """List a model's version numbers, oldest first; other directories are not versions."""
        return sorted(_version_numbers(self.model_directory(name)))

    def withdrawn_versions(self, name: str) -> list[int]:
        """List the numbers of a model's versions that were taken out of service, oldest first."""
        path = self.root / name
        if path.parent != self.root or not path.is_dir():
            raise NotFound(f"model '{name}' is not in {self.root}.")
        return sorted(_version_numbers(path, WITHDRAWN_PREFIX))

    def version_directory(self, name: str, version: int) -> Path:
        """Find a version; raises `NotFound`."""
        path = self.model_directory(name) / str(version)
        if not path.is_dir():
            raise NotFound(f"model '{name}' has no version {version} in {self.root}.")
        return path

    def overlooked(self) -> list[str]:
        """Say of what holds a model's file and is none what it lacks; raises `NotFound`."""
        if not self.model_names() and self._is_model(self.root):
            return [f"{self.root} is itself a model; name the directory that holds it."]
        return [
            f"{path} is no model: it has no version. Put its files into {path / '1'}."
            for path in sorted(self.root.iterdir())
            if self._lacks_a_version(path)
        ]

    def look(self) -> Listing:
        """List every file of every model with its size and time, to tell what changed; raises `NotFound`."""
        return {name: dict(_file_states(self.root / name)) for name in self.model_names()}

    def _is_model(self, path: Path) -> bool:
        try:
            if path.name.startswith(".") or not path.is_dir():
                return False
            if any(_version_numbers(path)):
                return True
            return (path / CONFIG_FILE).is_file() and not any(_version_numbers(path, WITHDRAWN_PREFIX))
        except OSError:
            # A name longer than any file's, or a directory that may not be read.
            return False

    def _lacks_a_version(self, path: Path) -> bool:
        try:
            if path.name.startswith(".") or self._is_model(path) or any(_version_numbers(path, WITHDRAWN_PREFIX)):
                return False
            return any(True for pattern in ("model.*", "*/model.*") for _ in path.glob(pattern))
        except OSError:
            # No directory, or one that may not be read.
            return False


def version_from_name(name: str) -> int | None:
    """The version that a directory holds; None for one that is no version."""
    return int(name) if _VERSION_NAME.fullmatch(name) else None


def _version_numbers(model_directory: Path, prefix: str = "") -> Iterator[int]:
    for path in model_directory.iterdir():
        number = path.name.removeprefix(prefix)
        if path.name == prefix + number and _VERSION_NAME.fullmatch(number) and path.is_dir():
            yield int(number)


def _file_states(directory: Path) -> Iterator[tuple[str, str]]:
    """Follow links, as mounted volumes are full of them, but never into a directory that was seen."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(directory, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        seen.add(real)
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            try:
                state = path.stat()
            except OSError:
                # Gone since it was listed: the next look tells.
                continue
            yield path.relative_to(directory).as_posix(), f"{state.st_size} bytes at {state.st_mtime_ns}"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex, read in chunks."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def check_digests(version_directory: Path, evidence: Evidence) -> None:
    """Compare each published file with the digest in the evidence.

    Raises:
        CorruptVersion: naming the first file that is missing or changed, or that has no digest although it serves.
    """
    serving = dict.fromkeys([*(record.file for record in evidence.engines), GOLDEN_FILE])
    check_file_digests(version_directory, evidence, {**serving, **evidence.files})


def files_of_engine(evidence: Evidence, record: EngineRecord) -> list[str]:
    """The engine file, and beside it what its weights lie in when they do not fit into it."""
    beside = [name for name in evidence.files if name.startswith(f"{record.file}.")]
    return [record.file, *sorted(beside)]


def check_file_digests(version_directory: Path, evidence: Evidence, names: Iterable[str]) -> None:
    """Compare some of a version's files with the digests in the evidence; raises `CorruptVersion`."""
    for name in names:
        expected = evidence.files.get(name)
        if expected is None:
            raise CorruptVersion(
                f"{version_directory / name} has no digest in the evidence. Publish the version again."
            )
        path = version_directory / name
        if path.parent != version_directory or not path.is_file():
            raise CorruptVersion(f"{path} is missing; the evidence lists it. Publish the version again.")
        try:
            found = digest(path)
        except OSError as problem:
            raise CorruptVersion(f"{path} cannot be read: {problem.strerror}.") from problem
        if found != expected:
            raise CorruptVersion(
                f"{path} has SHA-256 {found[:12]}…, the evidence says {expected[:12]}…. "
                "The file changed after it was published; publish the version again."
            )
