"""One sequence of requests that share a state, and the requests of it that wait."""

from collections import deque
from dataclasses import dataclass, field

from enginehouse.dtype import Array
from service.clock import Timer
from service.request import SequencePosition
from service.scheduling.queue import Pending


@dataclass(slots=True)
class SequenceState:
    """What a sequence knows of its past, by the engine's input names; None before its first request has run.

    Only the instance that runs the sequence's requests reads and writes it, one batch at a time.
    """

    values: dict[str, Array] | None = None


@dataclass(slots=True, frozen=True)
class PlacedPosition(SequencePosition):
    """A position that has its place: the row of the batch that is the sequence's own, and its state."""

    slot: int = 0
    state: SequenceState = field(default_factory=SequenceState)


@dataclass(slots=True, frozen=True)
class Place:
    """A slot of one instance; a sequence stays where it started. Lower slots are taken first."""

    slot: int
    instance: int

    def __lt__(self, other: "Place") -> bool:
        return (self.slot, self.instance) < (other.slot, other.instance)


@dataclass(slots=True, eq=False)
class Sequence:
    """A sequence from its first request to its last.

    Attributes:
        id: as the clients say it; whole numbers and texts are never equal.
        waiting: requests that were admitted and did not start, each with the state it works on.
        state: what requests that come now work on; a start in the middle of a sequence brings a new one.
        place: None while all slots are taken by others.
        is_open: whether further requests may join.
        is_running: whether a request of it is being computed.
        idle_timer: ends a sequence whose client does not come back.
    """

    id: int | str
    waiting: deque[tuple[Pending, SequenceState]] = field(default_factory=deque)
    state: SequenceState = field(default_factory=SequenceState)
    place: Place | None = None
    is_open: bool = True
    is_running: bool = False
    idle_timer: Timer | None = None

    @property
    def head(self) -> Pending:
        return self.waiting[0][0]

    def add(self, pending: Pending) -> None:
        """Let a request join; the last one closes the sequence."""
        position = pending.request.sequence
        assert position is not None
        if position.is_start:
            self.state = SequenceState()
        self.waiting.append((pending, self.state))
        self.is_open = not position.is_end
        self.stay_awake()

    def take(self) -> Pending:
        """Remove the next request to run it, and tell it its place."""
        pending, state = self.waiting.popleft()
        position = pending.request.sequence
        assert position is not None
        assert self.place is not None
        pending.request.sequence = PlacedPosition(
            position.id, position.is_start, position.is_end, self.place.slot, state
        )
        return pending

    def break_at(self, pending: Pending) -> list[Pending]:
        """Take out a request that will not run, and all that built on it: their state would lack its step.

        Returns:
            The requests that leave, the given one first; none if it does not wait here.
        """
        state = next((state for waiting, state in self.waiting if waiting is pending), None)
        if state is None:
            return []
        kept: deque[tuple[Pending, SequenceState]] = deque()
        leaving: list[Pending] = []
        for waiting, its_state in self.waiting:
            if waiting is pending or (leaving and its_state is state):
                leaving.append(waiting)
            else:
                kept.append((waiting, its_state))
        self.waiting = kept
        self.is_open = self.is_open and state is not self.state
        return leaving

    def stay_awake(self) -> None:
        """Forget the end that idleness would bring."""
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
