"""Bring models in and take them out, beside serving: loads block a thread, never the loop."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from enginehouse.errors import Error, InvalidInput, NotFound
from enginehouse.model_config import config_from_json, emulated_fields, refuse_unhonoured
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.ensembles.ensemble_rules import dependencies
from service.loading.assembly import Surroundings
from service.loading.exchange import Exchange
from service.loading.load_order import LoadOrder, remove_stand_in, write_stand_in
from service.loading.load_threads import LoadThreads
from service.loading.loader import VersionLoader
from service.loading.model_files import ModelFiles
from service.registry import UNAVAILABLE, Registry

_log = logging.getLogger(__name__)

DEFAULT_LOAD_THREADS = 4


class Lifecycle:
    """Loads and unloads models, one change of a model at a time; what a model is made of comes first.

    Args:
        drain_seconds: how long a version that is replaced or unloaded may finish what it has.
    """

    def __init__(
        self,
        registry: Registry,
        loader: VersionLoader,
        surroundings: Surroundings,
        drain_seconds: float,
        threads: LoadThreads | None = None,
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._repositories = loader.repository
        self._threads = threads or LoadThreads(DEFAULT_LOAD_THREADS)
        self._exchange = Exchange(registry, loader, surroundings, self._threads, drain_seconds)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._changes: set[asyncio.Task[None]] = set()
        self._required: set[str] = set()
        self._incomplete: set[str] = set()
        self._brought_along: set[str] = set()
        self._waiting_for: defaultdict[str, set[str]] = defaultdict(set)
        self._files: dict[str, ModelFiles] = {}
        self._look: asyncio.Task[None] | None = None

    @property
    def failed_models(self) -> frozenset[str]:
        """Models that the server was started with and that have no version that answers now."""
        return frozenset(name for name in self._required if not self._registry.is_answering(name))

    @property
    def incomplete_models(self) -> frozenset[str]:
        """Models that answer, but not with every version that was asked for."""
        return frozenset(self._incomplete)

    def repository_names(self) -> list[str]:
        """Names of the models in the repositories: of those far away as of the last look, and this starts the next."""
        if self._repositories.is_far and (self._look is None or self._look.done()):
            self._look = asyncio.create_task(self._look_again())
        return self._repositories.model_names()

    async def load(self, order: LoadOrder, files: Mapping[str, str] | None = None) -> None:
        """Serve the versions that a model's policy asks for; what answered before goes on until they are ready.

        Args:
            order: what to load.
            files: the state of the model's files, if that was looked at; a version that was loaded from the same
                files goes on as it is. Without it, everything is loaded anew.

        Raises:
            NotFound: the model is not in the repository.
            InvalidInput: it failed to load; what answered before still does.
        """
        try:
            if order.name not in self._registry.names() and not order.files:
                # Before there is a lock: clients may ask for any number of names that mean nothing.
                await self._threads.run(self._repositories.model_directory, order.name)
            if order.is_required:
                self._required.add(order.name)
            self._brought_along.discard(order.name)
            await self._to_the_end(self._load(order, ModelFiles(files), ()))
        except NotFound as problem:
            raise NotFound(f"failed to load '{order.name[:100]}', {problem}") from problem

    async def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Take a model out of service, and first what is made of it; requests that were admitted are answered.

        Args:
            name: of the model.
            unload_dependents: also unload the models that it is made of, if they were loaded only for its sake.

        Raises:
            NotFound: the model is neither loaded nor known.
        """
        if name not in self._registry.names():
            raise NotFound(f"failed to unload '{name[:100]}': the model is not loaded.")
        await self._to_the_end(self._unload(name, unload_dependents))

    async def unload_all(self) -> None:
        """Unload everything: what is made of others first, then those, all that can go at once together."""
        left = set(self._registry.names())
        while left:
            needed = {step for name in left for step in self._made_of(name)}
            free = left - needed or left
            await asyncio.gather(*(self.unload(name) for name in free))
            left -= free
        self._threads.close()

    async def _look_again(self) -> None:
        try:
            await self._threads.run(self._repositories.look)
        except Error as problem:
            _log.warning("the model repositories cannot be looked at: %s", problem)

    async def _to_the_end(self, change: Coroutine[Any, Any, None]) -> None:
        """Finish a change although the caller leaves: half of one would leave engines open and states wrong."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def _load(self, order: LoadOrder, files: ModelFiles, for_the_sake_of: tuple[str, ...]) -> None:
        """Load what the model is made of, then the model. Only its own lock is held, so that two never wait in a ring.

        Args:
            order: what to load.
            files: what is known of its files.
            for_the_sake_of: the models that need it, outermost first.
        """
        name = order.name
        try:
            await self._load_dependencies(order, (*for_the_sake_of, name))
            async with self._locks[name]:
                await self._load_locked(order, files)
        except NotFound:
            raise
        except Exception as problem:
            # A library may raise anything, and one model's trouble must never end the server.
            if not self._registry.versions(name) and not self._registry.states(name):
                self._registry.set_state(name, 1, UNAVAILABLE, str(problem))
            _log.warning("model '%s' failed to load: %s", name, problem)
            raise InvalidInput(f"failed to load '{name}': {problem}") from problem
        for dependent in self._waiting_for.pop(name, set()):
            await self._load_again(dependent)

    async def _load_dependencies(self, order: LoadOrder, chain: tuple[str, ...]) -> None:
        for step in dependencies(await self._threads.run(self._config, order)):
            if step in chain:
                raise InvalidInput(f"it is made of itself: {' -> '.join((*chain, step))}.")
            if self._registry.versions(step):
                continue
            self._brought_along.add(step)
            try:
                await self._load(LoadOrder(step, may_stay=True), ModelFiles(None), chain)
            except Error as problem:
                raise InvalidInput(f"model '{step}', which it needs, cannot serve: {problem}") from problem

    async def _load_locked(self, order: LoadOrder, files: ModelFiles) -> None:
        """Exchange the versions; if that fails, what stood in for the repository before still does."""
        if order.may_stay and self._registry.versions(order.name):
            if files.is_known:
                self._files[order.name] = files
            return
        root = await self._threads.run(write_stand_in, order) if order.files else None
        before = self._repositories.stand_in(order.name, root)
        try:
            config = await self._threads.run(self._config, order)
            for field in emulated_fields(config):
                _log.info("model '%s': emulated is %s", order.name, field)
            available = await self._threads.run(self._repositories.versions, order.name)
            is_kept = partial(files.are_those_of, self._files.get(order.name))
            left_out = await self._exchange.bring_in(config, available, is_kept, is_trial=bool(order.config_json))
        except BaseException:
            self._repositories.stand_in(order.name, before)
            await asyncio.to_thread(remove_stand_in, root)
            raise
        self._files[order.name] = files
        self._incomplete.discard(order.name)
        if left_out:
            self._incomplete.add(order.name)
        await asyncio.to_thread(remove_stand_in, before)

    async def _load_again(self, name: str) -> None:
        """Bring back a model that was taken out because one that it is made of was."""
        try:
            await self._load(LoadOrder(name), ModelFiles(None), ())
        except Error as problem:
            _log.warning("%s", problem)

    async def _unload(self, name: str, unload_dependents: bool) -> None:
        await self._suspend_dependents(name)
        steps = self._made_of(name)
        self._required.discard(name)
        for waiting in self._waiting_for.values():
            waiting.discard(name)
        await self._take_out(name, "unloaded")
        for step in steps if unload_dependents else ():
            is_needed = any(step in dependencies(model.config) for model in self._registry.served())
            if step in self._brought_along and not is_needed:
                self._brought_along.discard(step)
                await self._unload(step, unload_dependents)

    async def _suspend_dependents(self, name: str) -> None:
        """Take out what is made of a model, outermost first, until that model is back."""
        for dependent in {model.name for model in self._registry.served() if name in dependencies(model.config)}:
            self._waiting_for[name].add(dependent)
            await self._suspend_dependents(dependent)
            await self._take_out(dependent, f"model '{name}', which it needs, was unloaded")

    async def _take_out(self, name: str, reason: str) -> None:
        async with self._locks[name]:
            await self._exchange.retire(name, [], reason)
            self._files.pop(name, None)
            self._incomplete.discard(name)
            await asyncio.to_thread(remove_stand_in, self._repositories.stand_in(name, None))

    def _made_of(self, name: str) -> list[str]:
        """What a model that answers is made of."""
        return [step for model in self._registry.answering(name) for step in dependencies(model.config)]

    def _config(self, order: LoadOrder) -> ModelConfig:
        if order.config_json:
            if not order.files:
                self._repositories.model_directory(order.name)
            config = config_from_json(order.config_json, order.name)
            refuse_unhonoured(config)
        else:
            config = self._loader.config(order.name)
        return config


async def load_all(lifecycle: Lifecycle, names: Iterable[str]) -> None:
    """Load the models that a server starts with, together; one that fails never keeps the others from serving."""
    await asyncio.gather(*(_load_required(lifecycle, name) for name in names))


async def _load_required(lifecycle: Lifecycle, name: str) -> None:
    try:
        await lifecycle.load(LoadOrder(name, is_required=True, may_stay=True))
    except Error as problem:
        _log.error("%s", problem)
