"""Whether anything computes what a version is asked: engines in processes of their own end, and are started again."""

import logging
from collections.abc import Callable, Sequence

from enginehouse.engine import Engine, Restarted
from service.clock import Clock

_log = logging.getLogger(__name__)


class Presence:
    """Follows the engines of one version, and says so in the log when the last of them is gone, and when one is back.

    Args:
        what: the version, for the log.
        clock: of the thread that owns the queues, where all of this runs but what the engines call.
    """

    def __init__(self, what: str, engines: Sequence[Engine], clock: Clock) -> None:
        self._what = what
        self._clock = clock
        self._engines = [engine for engine in engines if isinstance(engine, Restarted)]
        self._was_absent = False
        self._is_over = False
        self._on_change: Callable[[], None] = lambda: None
        if len(self._engines) < len(engines):
            # One in the server's own process is always there.
            self._engines = []
        for engine in self._engines:
            engine.watch(self._note)

    @property
    def absence(self) -> str:
        """Why no engine computes now, in the words of the first; empty if one does."""
        reasons = [engine.absence for engine in self._engines]
        return reasons[0] if reasons and all(reasons) else ""

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back each time that the last engine is gone, or one is back."""
        self._on_change = callback

    def end(self) -> None:
        """That the engines end from now on is what they shall."""
        self._is_over = True

    def _note(self) -> None:
        if not self._is_over:
            self._clock.call_soon_threadsafe(self._follow)

    def _follow(self) -> None:
        absence = self.absence
        if self._is_over or bool(absence) == self._was_absent:
            return
        self._was_absent = bool(absence)
        if absence:
            _log.error("%s is not ready: %s", self._what, absence)
        else:
            _log.warning("%s is ready again", self._what)
        self._on_change()
