"""Bring model versions in and take them out, beside serving: loads block a thread, never the loop."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable

from enginehouse.errors import Error, InvalidInput, NotFound
from enginehouse.model_config import config_from_json, refuse_unhonoured, versions_to_serve
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import Clock
from service.loader import VersionLoader
from service.registry import LOADING, READY, UNAVAILABLE, UNLOADING, Registry
from service.served_model import LoadedVersion, ServedModel

_log = logging.getLogger(__name__)


class Lifecycle:
    """Loads and unloads models of one repository, one change of a model at a time.

    Args:
        drain_seconds: how long a version that is replaced or unloaded may finish what it has.
    """

    def __init__(self, registry: Registry, loader: VersionLoader, clock: Clock, drain_seconds: float) -> None:
        self._registry = registry
        self._loader = loader
        self._clock = clock
        self._drain_seconds = drain_seconds
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._failed: set[str] = set()

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
        async with self._locks[name]:
            try:
                await self._load(name, config_json)
            except NotFound:
                raise
            except Error as problem:
                if not self._registry.versions(name):
                    self._failed.add(name)
                    if not self._registry.states(name):
                        self._registry.set_state(name, 1, UNAVAILABLE, str(problem))
                _log.warning("model '%s' failed to load: %s", name, problem)
                raise InvalidInput(f"failed to load '{name}': {problem}") from problem
            self._failed.discard(name)

    async def unload(self, name: str) -> None:
        """Take a model out of service; requests that were admitted are answered first.

        Raises:
            NotFound: the model is neither loaded nor known.
        """
        async with self._locks[name]:
            if name not in self._registry.names():
                raise NotFound(f"failed to unload '{name}': the model is not loaded.")
            self._failed.discard(name)
            await self._retire(name, [], "unloaded")

    async def unload_all(self) -> None:
        """Unload everything, all models at once."""
        await asyncio.gather(*(self.unload(name) for name in self._registry.names()))

    async def _load(self, name: str, config_json: str) -> None:
        config = await asyncio.to_thread(self._config, name, config_json)
        available = self._loader.repository.versions(name)
        wanted = versions_to_serve(config, available)
        if not wanted:
            raise InvalidInput(f"model '{name}' has no version to serve; there are {available}.")
        loaded: list[LoadedVersion] = []
        failures: dict[int, Error] = {}
        for version in wanted:
            is_live = version in self._registry.versions(name)
            if not is_live:
                self._registry.set_state(name, version, LOADING)
            try:
                loaded.append(await asyncio.to_thread(self._loader.load, config, version))
            except Error as problem:
                failures[version] = problem
                if not is_live:
                    self._registry.set_state(name, version, UNAVAILABLE, str(problem))
                _log.error("model '%s' version %d cannot serve: %s", name, version, problem)
        if not loaded and self._registry.versions(name):
            # A configuration that a client tried and that failed says nothing about what serves now.
            if not config_json:
                self._mark_degraded(name, failures)
            raise InvalidInput(_reasons(failures))
        loaded = loaded or [await asyncio.to_thread(self._substitute, config, available, failures)]
        models = [ServedModel(version, self._clock) for version in loaded]
        await self._retire(name, models, "superseded")

    def _config(self, name: str, config_json: str) -> ModelConfig:
        if not config_json:
            return self._loader.config(name)
        self._loader.repository.model_directory(name)
        config = config_from_json(config_json, name)
        refuse_unhonoured(config)
        return config

    def _mark_degraded(self, name: str, failures: dict[int, Error]) -> None:
        """What answers now stays in place, although something else was asked for."""
        reason = _reasons(failures)
        for model in self._registry.served():
            if model.name == name:
                model.degraded = f"version {model.version} still serves because: {reason}"
                self._registry.set_state(name, int(model.version), READY, f"degraded: {model.degraded}")
        _log.warning("model '%s' is degraded: %s", name, reason)

    def _substitute(self, config: ModelConfig, available: list[int], failures: dict[int, Error]) -> LoadedVersion:
        """Nothing that was asked for can serve: the previous version does, else the newest one's fallback engine.

        Raises:
            Error: the first failure, if neither is to be had.
        """
        reason = _reasons(failures)
        older = [version for version in available if version < min(failures)]
        for version in reversed(older):
            try:
                loaded = self._loader.load(config, version)
            except Error as problem:
                _log.warning("model '%s' version %d cannot step in: %s", config.name, version, problem)
                continue
            return _degraded(loaded, f"version {version} serves because: {reason}")
        newest = max(failures)
        try:
            return self._loader.load_fallback(config, newest, reason)
        except Error as problem:
            _log.warning("model '%s' version %d has no working fallback: %s", config.name, newest, problem)
            raise failures[newest] from problem

    async def _retire(self, name: str, successors: list[ServedModel], reason: str) -> None:
        """Swap the table in one step, then drain and close what answered before."""
        retired = self._registry.replace(name, successors)
        serving = {int(model.version): model for model in successors}
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNLOADING)
        for version, model in serving.items():
            self._registry.set_state(name, version, READY, f"degraded: {model.degraded}" if model.degraded else "")
            if model.degraded:
                _log.warning("model '%s' is degraded: %s", name, model.degraded)
        await asyncio.gather(*(self._close(model) for model in retired))
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNAVAILABLE, reason)

    async def _close(self, model: ServedModel) -> None:
        drained = asyncio.Event()
        model.drain(drained.set)
        try:
            await asyncio.wait_for(drained.wait(), self._drain_seconds)
        except TimeoutError:
            _log.warning("model '%s' version %s was not drained in time", model.name, model.version)
            model.abandon()
        await asyncio.to_thread(model.close)


def _reasons(failures: dict[int, Error]) -> str:
    return "; ".join(f"version {version}: {problem}" for version, problem in failures.items())


def _degraded(loaded: LoadedVersion, reason: str) -> LoadedVersion:
    return LoadedVersion(loaded.config, loaded.version, loaded.engines, loaded.load_seconds, reason)


async def load_all(lifecycle: Lifecycle, names: Iterable[str]) -> None:
    """Load models one after the other; one that fails never keeps the others from serving."""
    for name in names:
        try:
            await lifecycle.load(name)
        except Error as problem:
            _log.error("%s", problem)
