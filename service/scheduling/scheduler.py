"""What decides which waiting requests run next, and on which instance."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from enginehouse.errors import Error
from service.clock import Clock
from service.scheduling.instance import Batch, Instance
from service.scheduling.queue import Pending


@dataclass(slots=True, frozen=True)
class Hooks:
    """What a scheduler tells the model it works for.

    Attributes:
        settle_batch: answers the requests of a finished batch.
        on_leave: a request left without having run, with the reason it is given.
    """

    settle_batch: Callable[[Batch], None]
    on_leave: Callable[[Pending, Error], None]


class Scheduler(Protocol):
    """Owns the waiting requests of one model version. Everything here runs on the thread that owns the queue."""

    @property
    def depth(self) -> int:
        """Requests that wait, not counting those that run."""

    @property
    def time_to_spare(self) -> float:
        """Seconds that one more row may spend before it is admitted, and be in time; infinity if nobody counts."""

    def add_instances(self, instances: Sequence[Instance]) -> None: ...

    def admit(self, pending: Pending) -> None:
        """Let a request wait its turn; raises `Overloaded`, `DeadlineExceeded` or `InvalidInput` and keeps nothing."""

    def running(self) -> list[Pending]:
        """Requests that an instance has and did not give back yet."""

    def clear(self, reason: Error) -> None:
        """Tell everybody who waits that nothing more will run."""

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as nobody waits and nothing runs."""

    def on_done(self, instance: Instance, batch: Batch) -> None:
        """Take a finished batch back, start the next, and settle."""


MakeScheduler = Callable[[Clock, Hooks], Scheduler]
