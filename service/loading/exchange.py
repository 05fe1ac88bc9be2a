"""Bring the versions of one model in, and take out in one step what they replace."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from enginehouse.errors import InvalidInput
from enginehouse.memory_return import return_memory
from enginehouse.model_config import versions_to_serve
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.loading.load_threads import LoadThreads
from service.loading.loader import VersionLoader
from service.loading.opening import close_all
from service.registry import LOADING, READY, UNAVAILABLE, UNLOADING, Registry
from service.served import Served

_log = logging.getLogger(__name__)


class Exchange:
    """Changes what answers for a model; the caller makes sure that a model has one change at a time.

    Args:
        drain_seconds: how long a version that is replaced or unloaded may finish what it has.
    """

    def __init__(
        self,
        registry: Registry,
        loader: VersionLoader,
        surroundings: Surroundings,
        threads: LoadThreads,
        drain_seconds: float,
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._surroundings = surroundings
        self._threads = threads
        self._drain_seconds = drain_seconds
        self._degraded_as_loaded: dict[tuple[str, int], str] = {}

    async def bring_in(
        self,
        config: ModelConfig,
        available: list[int],
        is_kept: Callable[[int], bool],
        is_trial: bool,
    ) -> dict[int, Exception]:
        """Serve the versions that the policy asks for; what answered before goes on until they are ready.

        Args:
            config: of the model.
            available: versions that lie in the repository.
            is_kept: whether a version that answers is what would be loaded, so that it simply goes on.
            is_trial: the configuration is one that a client tries: that it fails says nothing about what serves.

        Returns:
            Why versions that were asked for do not answer, where others do.

        Raises:
            Exception: what was wrong; what answered before still does.
        """
        name = config.name
        wanted = versions_to_serve(config, available)
        if not wanted:
            raise InvalidInput(f"model '{name}' has no version to serve; there are {available}.")
        live = self._registry.answering(name)
        kept = [model for model in live if int(model.version) in wanted and self._goes_on(model, is_kept)]
        unchanged = {int(model.version) for model in kept}
        loaded, failures = await self._load_versions(config, [one for one in wanted if one not in unchanged])
        if failures and live and not loaded and not kept:
            if not is_trial:
                self._mark_degraded(name, failures)
            raise InvalidInput(_reasons(failures))
        if failures and not loaded and not kept:
            loaded = [await self._threads.run(self._substitute, config, available, failures)]
        for model in kept:
            model.degraded = ""
        models = kept + await self._serve(loaded)
        models += [model for model in live if int(model.version) in failures]
        _mark_survivors(models, failures)
        await self.retire(name, models, "superseded")
        return failures

    async def retire(self, name: str, successors: list[Served], reason: str) -> None:
        """Swap the table in one step, then drain and close what answered before."""
        retired = self._registry.replace(name, successors)
        # In the same step: a request may come before anything that is awaited begins to run.
        drained = [_drain(model) for model in retired]
        serving = {int(model.version): model for model in successors}
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNLOADING)
        for version, model in serving.items():
            self._registry.set_state(name, version, READY, _reason_of(model))
            if model.degraded:
                _log.warning("model '%s' is degraded: %s", name, model.degraded)
        await asyncio.gather(*(self._close(model, done) for model, done in zip(retired, drained, strict=True)))
        for model in retired:
            if int(model.version) not in serving:
                self._registry.set_state(name, int(model.version), UNAVAILABLE, reason)
        await asyncio.to_thread(return_memory)

    def _goes_on(self, model: Served, is_kept: Callable[[int], bool]) -> bool:
        """Whether a version need not be loaded again: it is what was asked for, and nothing was wrong with it."""
        return is_kept(int(model.version)) and not self._degraded_as_loaded[model.name, int(model.version)]

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
                loaded.append(await self._threads.run(self._loader.load, config, version))
            except Exception as problem:
                failures[version] = problem
                if not is_live:
                    self._registry.set_state(name, version, UNAVAILABLE, str(problem))
                _log.error("model '%s' version %d cannot serve: %s", name, version, problem)
        return loaded, failures

    async def _serve(self, loaded: Sequence[LoadedVersion]) -> list[Served]:
        """Make what answers; if that fails for one version, no engine of any stays open."""
        models: list[Served] = []
        try:
            for version in loaded:
                models.append(serve_version(version, self._surroundings))  # noqa: PERF401 - those made must be known
        except BaseException as problem:
            await asyncio.gather(*(asyncio.to_thread(model.close) for model in models))
            for version in loaded[len(models) :]:
                close_all(version.engines)
            for version in loaded:
                if version.version not in self._registry.versions(version.config.name):
                    self._registry.set_state(version.config.name, version.version, UNAVAILABLE, str(problem))
            raise
        for version in loaded:
            self._degraded_as_loaded[version.config.name, version.version] = version.degraded
        return models

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

    async def _close(self, model: Served, drained: asyncio.Event) -> None:
        try:
            await asyncio.wait_for(drained.wait(), self._drain_seconds)
        except TimeoutError:
            _log.warning("model '%s' version %s was not drained in time", model.name, model.version)
            model.abandon()
        await asyncio.to_thread(model.close)


def _drain(model: Served) -> asyncio.Event:
    """Let a version finish what it has; the event is set once it has."""
    drained = asyncio.Event()
    model.drain(drained.set)
    return drained


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
