"""All the places that models come from, as one: several repositories, and what a client put in place of a model."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from enginehouse.errors import InvalidInput, NotFound
from enginehouse.remote_repository import RemoteRepository
from enginehouse.repository import Listing, Repository


class ModelSource(Protocol):
    """One repository, wherever it lies; `str` tells where. All but `model_names` and `versions` may take long."""

    def model_names(self) -> list[str]:
        """Models, as far as that can be told at once: those of the last look, where looking takes long."""

    def look(self) -> Listing:
        """Every file of every model, and what tells its state; raises `NotFound` or `NotReady`."""

    def model_directory(self, name: str) -> Path:
        """Where the model's own files lie as they are now; raises `NotFound`."""

    def versions(self, name: str) -> list[int]:
        """Version numbers, oldest first, as of the last `model_directory`."""

    def version_directory(self, name: str, version: int) -> Path:
        """Where a version's files lie as they are now; raises `NotFound`."""


class Repositories:
    """Finds a model in the one repository that holds it, unless another directory stands in for it."""

    def __init__(self, sources: Sequence[ModelSource]) -> None:
        self._sources = tuple(sources)
        self._found: dict[str, ModelSource] = {}
        self._stand_ins: dict[str, Path] = {}

    def __str__(self) -> str:
        return ", ".join(str(source) for source in self._sources)

    @property
    def is_far(self) -> bool:
        """Whether it takes long to tell which models there are."""
        return any(not isinstance(source, Repository) for source in self._sources)

    def model_names(self) -> list[str]:
        """List the models of all repositories, those far away as of the last look."""
        return sorted({name for source in self._sources for name in source.model_names()})

    def overlooked(self) -> list[str]:
        """Say of what looks like a model in a directory of this machine, and is none, what it lacks."""
        near = [source for source in self._sources if isinstance(source, Repository)]
        return [sentence for source in near for sentence in source.overlooked()]

    def look(self) -> Listing:
        """List every file of every model; a model that lies in two repositories has the files of both."""
        together: dict[str, dict[str, str]] = {}
        for source in self._sources:
            for name, files in source.look().items():
                together.setdefault(name, {}).update(files)
        return together

    def model_directory(self, name: str) -> Path:
        """Find a model.

        Raises:
            NotFound: no repository holds it.
            InvalidInput: more than one does.
        """
        root = self._stand_ins.get(name)
        if root is not None:
            return Repository(root).model_directory(name)
        if len(self._sources) == 1:
            return self._sources[0].model_directory(name)
        holding: list[tuple[ModelSource, Path]] = []
        for source in self._sources:
            try:
                holding.append((source, source.model_directory(name)))
            except NotFound:
                continue
        if not holding:
            raise NotFound(f"failed to poll from model repository: model '{name}' is in none of {self}.")
        if len(holding) > 1:
            where = " and ".join(str(source) for source, _ in holding)
            raise InvalidInput(f"model '{name}' is not unique: {where} hold it. Remove all but one.")
        self._found[name], directory = holding[0]
        return directory

    def versions(self, name: str) -> list[int]:
        """List a model's version numbers, oldest first, as of the last `model_directory`."""
        return self._source(name).versions(name)

    def version_directory(self, name: str, version: int) -> Path:
        """Find a version of a model whose directory was found; raises `NotFound`."""
        return self._source(name).version_directory(name, version)

    def stand_in(self, name: str, root: Path | None) -> Path | None:
        """Let the directory `root/name` be the model from now on, or no more; tell which root was before."""
        before = self._stand_ins.pop(name, None)
        if root is not None:
            self._stand_ins[name] = root
        return before

    def _source(self, name: str) -> ModelSource:
        root = self._stand_ins.get(name)
        if root is not None:
            return Repository(root)
        if name not in self._found:
            self.model_directory(name)
        return self._found.get(name, self._sources[0])


def open_repositories(places: Sequence[str], cache: Path | None) -> Repositories:
    """Make one of several directories and URLs; nothing is read yet.

    Args:
        places: directories, and URLs that contain `://`.
        cache: where what URLs hold is copied to; None for the user's own cache.

    Raises:
        InvalidInput: the same place twice, or a URL that nothing reads.
        MissingExtra: the library for a kind of URL is not installed.
    """
    if len(set(places)) < len(places):
        raise InvalidInput(f"--model-repository names a place twice: {', '.join(places)}.")
    folder = cache or _user_cache()
    return Repositories(
        [RemoteRepository(place, folder) if "://" in place else Repository(Path(place)) for place in places]
    )


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "enginehouse" / "repositories"
