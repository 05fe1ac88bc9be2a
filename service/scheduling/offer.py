"""The batch that whichever instance is free first begins by itself, without waiting for a busy loop to hand it over."""

from collections import deque

from service.scheduling.instance import Batch


class Offer:
    """At most one batch, which either an instance takes or the loop takes back, whoever is first.

    Its requests stay in their line, with their deadlines, until the loop hears that they have begun.
    """

    def __init__(self) -> None:
        # A deque's append and pop are atomic, so that no lock is held where a batch ends.
        self._batches: deque[Batch] = deque()

    def make(self, batch: Batch) -> None:
        """Offer a batch; on the thread that owns the queue, after the one before it was taken."""
        self._batches.append(batch)

    def take(self) -> Batch | None:
        """The batch, for whoever asks first; from any thread."""
        try:
            return self._batches.pop()
        except IndexError:
            return None
