"""A version whose requests belong to sequences: loaded again, those that began before end where they began."""

from collections.abc import Callable
from functools import partial

from enginehouse.engine import Engine
from enginehouse.errors import Error
from service.clock import Clock
from service.loaded import LoadedVersion
from service.request import Admitted, InferRequest, Settle
from service.reserved_parameters import take_reserved
from service.scheduling.computation import Computation
from service.scheduling.scheduler import Hooks, MakeScheduler, Scheduler
from service.sequences.sequence import SequenceBatcher
from service.served_model import ServedModel
from service.statistics.statistics import ModelStatistics


class SequenceModel(ServedModel):
    """Hands a request of a sequence that its predecessor serves on to it.

    Args:
        family: all that serve the same model, oldest first; this one joins it, and leaves once it is drained.
        around: what else decides of its requests, given what makes the scheduler of its sequences.
    """

    def __init__(
        self,
        loaded: LoadedVersion,
        clock: Clock,
        make_batcher: Callable[[Clock, Hooks], SequenceBatcher],
        make_computation: Callable[[Engine], Computation],
        statistics: ModelStatistics,
        family: list["SequenceModel"],
        around: Callable[[MakeScheduler], MakeScheduler] = lambda make: make,
    ) -> None:
        def make_scheduler(own_clock: Clock, hooks: Hooks) -> Scheduler:
            self._batcher = make_batcher(own_clock, hooks)
            return self._batcher

        super().__init__(loaded, clock, around(make_scheduler), make_computation, statistics)
        self._is_retiring = False
        self._family = family
        family.append(self)

    def infer(self, request: InferRequest, settle: Settle) -> Admitted | None:
        elder = self._elder_of(request)
        return super().infer(request, settle) if elder is None else elder.infer(request, settle)

    def drain(self, on_drained: Callable[[], None]) -> None:
        """With a successor that hands requests on, open sequences end first; without one, nobody could send more."""
        self._is_retiring = True
        position = self._family.index(self)
        if any(not younger._is_retiring for younger in self._family[position + 1 :]):
            self._batcher.when_over(partial(self._drain_now, on_drained))
        else:
            self._drain_now(on_drained)

    def _drain_now(self, on_drained: Callable[[], None]) -> None:
        self._family.remove(self)
        super().drain(on_drained)

    def _elder_of(self, request: InferRequest) -> "SequenceModel | None":
        """Who is about to leave and still has the sequence of this request."""
        if self._is_retiring or len(self._family) == 1:
            return None
        try:
            take_reserved(request)
        except Error:
            # To be said where every other fault of a request is.
            return None
        position = request.sequence
        if position is None or position.is_start or self._batcher.knows(position.id):
            return None
        elders = (one for one in self._family if one._is_retiring and one._batcher.knows(position.id))
        return next(elders, None)
