"""Bring model versions in and take them out, beside serving: loads block a thread, never the loop."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any

from enginehouse.errors import Error, InvalidInput, NotFound
from enginehouse.model_config import config_from_json, refuse_unhonoured, versions_to_serve
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.assembly import Surroundings, serve_version
from service.loaded import LoadedVersion
from service.loader import VersionLoader
from service.registry import LOADING, READY, UNAVAILABLE, UNLOADING, Registry
from service.served import Served

_log = logging.getLogger(__name__)


class Lifecycle:
    """Loads and unloads models of one repository, one change of a model at a time.

    Args:
        drain_seconds: how long a version that is replaced or unloaded may finish what it has.
    """

    def __init__(
        self, registry: Registry, loader: VersionLoader, surroundings: Surroundings, drain_seconds: float
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._surroundings = surroundings
        self._drain_seconds = drain_seconds
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: set[str] = set()
        self._changes: set[asyncio.Task[None]] = set()

    @property
    def failed_models(self) -> frozenset[str]:
        """Models that were asked for and have no version that answers."""
        return frozenset(self._failed)

    def repository_names(self) -> list[str]:
        return self._loader.repository.model_names()

    async def load(self, name: str, config_json: str = "") -> None:
        """Serve the versions that a model's policy asks for; what answered before goes on until they are ready.

        Raises:
            NotFound: the model is not in the repository.
            InvalidInput: it failed to load; what answered before still does.
        """
        if name not in self._registry.names():
            # Before there is a lock: clients may ask for any number of names that mean nothing.
            self._loader.repository.model_directory(name)
        await self._to_the_end(self._load_locked(name, config_json))

    async def unload(self, name: str) -> None:
        """Take a model out of service; requests that were admitted are answered first.

        Raises:
            NotFound: the model is neither loaded nor known.
        """
        if name not in self._registry.names():
            raise NotFound(f"failed to unload '{name[:100]}': the model is not loaded.")
        await self._to_the_end(self._unload_locked(name))

    async def unload_all(self) -> None:
        """Unload everything, all models at once."""
        await asyncio.gather(*(self.unload(name) for name in self._registry.names()))

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Finish a change although the caller leaves: half of one would leave engines open and states wrong."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load_locked(self, name: str, config_json: str) -> None:
        async with self._locks[name]:
            try:
                await self._load(name, config_json)
            except NotFound:
                raise
            except Exception as problem:
                # A library may raise anything, and one model's trouble must never end the server.
                if not self._registry.versions(name):
                    self._failed.add(name)
                    if not self._registry.states(name):
                        self._registry.set_state(name, 1, UNAVAILABLE, str(problem))
                _log.warning("model '%s' failed to load: %s", name, problem)
                raise InvalidInput(f"failed to load '{name}': {problem}") from problem
            self._failed.discard(name)

    async def _unload_locked(self, name: str) -> None:
        async with self._locks[name]:
            self._failed.discard(name)
            await self._retire(name, [], "unloaded")

    async def _load(self, name: str, config_json: str) -> None:
        config = await asyncio.to_thread(self._config, name, config_json)
        available = self._loader.repository.versions(name)
        wanted = versions_to_serve(config, available)
        if not wanted:
            raise InvalidInput(f"model '{name}' has no version to serve; there are {available}.")
        loaded, failures = await self._load_versions(config, wanted)
        live = self._registry.answering(name)
        if not loaded and live:
            # A configuration that a client tried and that failed says nothing about what serves now.
            if not config_json:
                self._mark_degraded(name, failures)
            raise InvalidInput(_reasons(failures))
        loaded = loaded or [await asyncio.to_thread(self._substitute, config, available, failures)]
        models = [serve_version(version, self._surroundings) for version in loaded]
        models += [model for model in live if int(model.version) in failures]
        _mark_survivors(models, failures)
        await self._retire(name, models, "superseded")

    async def _load_versions(
        self, config: ModelConfig, wanted: Iterable[int]
    ) -> tuple[list[LoadedVersion], dict[int, Exception]]:
        """Load each version by itself: those that came, and why the others did not."""
        loaded: list[LoadedVersion] = []
        failures: dict[int, Exception] = {}
        name = config.name
        for version in wanted:
            is_live = version in self._registry.versions(name)
            if not is_live:
                self._registry.set_state(name, version, LOADING)
            try:
                loaded.append(await asyncio.to_thread(self._loader.load, config, version))
            except Exception as problem:
                failures[version] = problem
                if not is_live:
                    self._registry.set_state(name, version, UNAVAILABLE, str(problem))
                _log.error("model '%s' version %d cannot serve: %s", name, version, problem)
        return loaded, failures

    def _config(self, name: str, config_json: str) -> ModelConfig:
        if not config_json:
            return self._loader.config(name)
        self._loader.repository.model_directory(name)
        config = config_from_json(config_json, name)
        refuse_unhonoured(config)
        return config

    def _mark_degraded(self, name: str, failures: dict[int, Exception]) -> None:
        """What answers now stays in place, although something else was asked for."""
        reason = _reasons(failures)
        for model in self._registry.answering(name):
            model.degraded = f"version {model.version} still serves because: {reason}"
            self._registry.set_state(name, int(model.version), READY, _reason_of(model))
        _log.warning("model '%s' is degraded: %s", name, reason)

    def _substitute(self, config: ModelConfig, available: list[int], failures: dict[int, Exception]) -> LoadedVersion:
        """Nothing that was asked for can serve: the previous version does, else the newest one's fallback engine.

        Raises:
            Error: the first failure, if neither is to be had.
        """
        reason = _reasons(failures)
        older = [version for version in available if version < min(failures)]
        for version in reversed(older):
            try:
                loaded = self._loader.load(config, version)
            except Exception as problem:
                _log.warning("model '%s' version %d cannot step in: %s", config.name, version, problem)
                continue
            return _degraded(loaded, f"version {version} serves because: {reason}")
        newest = max(failures)
        try:
            return self._loader.load_fallback(config, newest, reason)
        except Exception as problem:
            _log.warning("model '%s' version %d has no working fallback: %s", config.name, newest, problem)
            raise failures[newest] from problem

    async def _retire(self, name: str, successors: list[Served], reason: str) -> None:
        """Swap the table in one step, then drain and close what answered before."""
        retired = self._registry.replace(name, successors)
        serving = {int(model.version): model for model in successors}
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNLOADING)
        for version, model in serving.items():
            self._registry.set_state(name, version, READY, _reason_of(model))
            if model.degraded:
                _log.warning("model '%s' is degraded: %s", name, model.degraded)
        await asyncio.gather(*(self._close(model) for model in retired))
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNAVAILABLE, reason)

    async def _close(self, model: Served) -> None:
        drained = asyncio.Event()
        model.drain(drained.set)
        try:
            await asyncio.wait_for(drained.wait(), self._drain_seconds)
        except TimeoutError:
            _log.warning("model '%s' version %s was not drained in time", model.name, model.version)
            model.abandon()
        await asyncio.to_thread(model.close)


def _mark_survivors(models: Sequence[Served], failures: dict[int, Exception]) -> None:
    """Say of a version that could not be reloaded that it is the old one, and of the newest that it should not be."""
    newest = max(models, key=lambda model: int(model.version))
    for model in models:
        own = failures.get(int(model.version))
        if own is not None:
            model.degraded = model.degraded or f"version {model.version} still serves because: {own}"
    if failures and max(failures) > int(newest.version):
        newest.degraded = newest.degraded or f"version {newest.version} serves because: {_reasons(failures)}"


def _reasons(failures: dict[int, Exception]) -> str:
    return "; ".join(f"version {version}: {problem}" for version, problem in failures.items())


def _reason_of(model: Served) -> str:
    """What the index says of a version that answers."""
    return f"degraded: {model.degraded}" if model.degraded else model.note


def _degraded(loaded: LoadedVersion, reason: str) -> LoadedVersion:
    return replace(loaded, degraded=f"{reason}; {loaded.degraded}" if loaded.degraded else reason)


async def load_all(lifecycle: Lifecycle, names: Iterable[str]) -> None:
    """Load models one after the other; one that fails never keeps the others from serving."""
    for name in names:
        try:
            await lifecycle.load(name)
        except Error as problem:
            _log.error("%s", problem)
