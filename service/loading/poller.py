"""Follow the repositories: what comes, changes or goes there comes, changes or goes here."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from enginehouse.errors import Error, NotFound
from enginehouse.repository import Listing
from service.clock import Clock
from service.loading.lifecycle import Lifecycle
from service.loading.load_order import LoadOrder
from service.loading.repositories import Repositories

_log = logging.getLogger(__name__)

# Who copies a model into a repository does it file by file: only what holds still for this long is acted upon.
SETTLE_SECONDS = 1.0

# A model that fails to load is tried again after one poll, then after two, four and so on, up to this many.
_MAX_PATIENCE_POLLS = 64


class Poller:
    """Looks at the repositories every so often.

    Args:
        poll_seconds: from one look to the next, while nothing moves.
        on_change: called whenever a model came or went.
    """

    def __init__(
        self,
        repositories: Repositories,
        lifecycle: Lifecycle,
        clock: Clock,
        poll_seconds: float,
        on_change: Callable[[], None],
    ) -> None:
        self._repositories = repositories
        self._lifecycle = lifecycle
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._last: Listing = {}
        self._followed: dict[str, Mapping[str, str]] = {}
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    async def start(self) -> None:
        """Load everything; the server is not ready before each of these models answers."""
        self._last = await asyncio.to_thread(self._repositories.look)
        await asyncio.gather(*(self._load(name, files, is_required=True) for name, files in self._last.items()))

    async def run(self) -> None:
        """Follow until the task is cancelled."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                while await self.look():
                    await asyncio.sleep(min(SETTLE_SECONDS, self._poll_seconds))
            except Error as problem:
                # A bucket that cannot be reached is no reason to stop serving what came from it.
                _log.warning("the model repositories cannot be looked at: %s", problem)

    async def look(self) -> bool:
        """Act on what differs from what serves and has held still since the last look.

        Returns:
            Whether something moved, which is worth another look soon.
        """
        listing = await asyncio.to_thread(self._repositories.look)
        differing = [name for name in sorted({*listing, *self._followed}) if self._is_to_follow(name, listing)]
        still = [name for name in differing if listing.get(name) == self._last.get(name)]
        self._last = listing
        await asyncio.gather(*(self._follow(name, listing.get(name)) for name in still))
        return len(still) < len(differing)

    def _is_to_follow(self, name: str, listing: Listing) -> bool:
        if listing.get(name) != self._followed.get(name):
            return True
        return name in self._due and self._due[name] <= self._clock.now()

    async def _follow(self, name: str, files: Mapping[str, str] | None) -> None:
        if files is not None:
            await self._load(name, files, is_required=False)
            return
        del self._followed[name]
        self._forget_failures(name)
        try:
            await self._lifecycle.unload(name)
        except NotFound:
            return
        _log.info("model '%s' is gone from the repository; it was unloaded", name)
        self._on_change()

    async def _load(self, name: str, files: Mapping[str, str], is_required: bool) -> None:
        if self._followed.get(name) != files:
            self._forget_failures(name)
        self._followed[name] = files
        try:
            order = LoadOrder(name, is_required=is_required, may_stay=is_required)
            await self._lifecycle.load(order, files)
        except Error as problem:
            _log.error("%s", problem)
            has_failed = True
        else:
            has_failed = name in self._lifecycle.incomplete_models
        if has_failed:
            patience = min(2 ** self._failures.get(name, 0), _MAX_PATIENCE_POLLS)
            self._failures[name] = self._failures.get(name, 0) + 1
            self._due[name] = self._clock.now() + patience * self._poll_seconds
        else:
            self._forget_failures(name)
        self._on_change()

    def _forget_failures(self, name: str) -> None:
        self._failures.pop(name, None)
        self._due.pop(name, None)
