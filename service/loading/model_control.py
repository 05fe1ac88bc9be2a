"""Which models a server starts with, and who changes that afterwards: nobody, its clients, or the repositories."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from enginehouse.errors import NotFound
from service.clock import Clock
from service.loading.lifecycle import Lifecycle, load_all
from service.loading.poller import Poller
from service.loading.repositories import Repositories

ALL = ("*",)

_log = logging.getLogger(__name__)


class ModelControl:
    """Loads models at the start and, in mode poll, follows the repositories from then on.

    Args:
        mode: `none`, `poll` or `explicit`.
        asked_for: names to load at the start in mode explicit, or `*`.
        on_change: called whenever a model came or went.
    """

    def __init__(
        self,
        mode: str,
        asked_for: Sequence[str],
        repositories: Repositories,
        lifecycle: Lifecycle,
        clock: Clock,
        poll_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._mode = mode
        self._asked_for = tuple(asked_for)
        self._repositories = repositories
        self._lifecycle = lifecycle
        self._poller = Poller(repositories, lifecycle, clock, poll_seconds, on_change)
        self._names: list[str] = []
        self._following: asyncio.Task[None] | None = None

    def look(self) -> None:
        """Find the models to start with; blocks.

        Raises:
            NotFound: a repository, or a model that was asked for, is not there.
            NotReady: a repository cannot be read.
        """
        names = sorted(self._repositories.look())
        for sentence in self._repositories.overlooked():
            _log.warning(sentence)
        if not names:
            _log.warning("there is no model in %s; expected files such as NAME/1/model.onnx.", self._repositories)
        if self._mode == "explicit" and self._asked_for != ALL:
            missing = [name for name in self._asked_for if name not in names]
            if missing:
                raise NotFound(f"--load-model {missing[0]}: no such model in {self._repositories}; there are {names}.")
            names = list(self._asked_for)
        self._names = names

    async def start(self) -> None:
        """Load them; one that fails never keeps the others from serving."""
        if self._mode == "poll":
            await self._poller.start()
            self._following = asyncio.create_task(self._poller.run())
        else:
            await load_all(self._lifecycle, self._names)

    async def stop(self) -> None:
        """Follow no more."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
