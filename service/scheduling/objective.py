"""Keeps a model's latency objective: refuses at the door what cannot be in time, and sizes batches by the clock."""

import math
from collections import deque

from enginehouse.errors import Overloaded
from enginehouse.evidence import read_evidence
from service.clock import Clock
from service.loaded import LoadedVersion
from service.scheduling.batch import BatchPolicy
from service.scheduling.deadline_plan import (
    Outlook,
    Plan,
    best_batch_rows,
    plan_batch,
    predicted_end,
)
from service.scheduling.instance import Batch
from service.scheduling.latency_curve import LatencyCurve, points_from_evidence
from service.scheduling.occupancy import Occupancy
from service.scheduling.queue import Pending, RequestQueue
from service.scheduling.queue_policy import HIGHEST_PRIORITY

# Where nothing ran for so long, the estimate may be of another day: one request may come late to find out.
PROBE_AFTER_SECONDS = 0.25

# Of the time that a request can spare, the work before it may take so much. The rest is for what nobody foresees: who
# is let in and refused at its deadline waited for nothing, and a longer line answers nobody sooner.
SPARE_SHARE = 0.15

_RATE_WINDOW_SECONDS = 0.02
_RATE_MEMORY_SECONDS = 0.05

# How busy the loop is changes faster than how fast the engine is.
_DELIVERY_MEMORY_SECONDS = 1.0
_DELIVERY_WINDOW = 32


def objective_of(loaded: LoadedVersion, policy: BatchPolicy, slo_seconds: float, clock: Clock) -> "Objective | None":
    """Start from what the evidence says of the engine that serves; None for a model without an objective."""
    if not slo_seconds:
        return None
    evidence = read_evidence(loaded.directory)
    candidates = [record.candidate for record in loaded.records if record.candidate]
    curves = [points_from_evidence(evidence, name) for name in candidates] if evidence is not None else []
    points = next((curve for curve in curves if curve), [])
    return Objective(slo_seconds, LatencyCurve(max(1, policy.max_batch_rows), points), policy, clock)


class ArrivalRate:
    """Rows per second that ask to be let in: an average that forgets."""

    def __init__(self, now: float) -> None:
        self.rows_per_second = 0.0
        self._since = now
        self._rows = 0

    def count(self, rows: int, now: float) -> None:
        self._rows += rows
        passed = now - self._since
        if passed >= _RATE_WINDOW_SECONDS:
            weight = -math.expm1(-passed / _RATE_MEMORY_SECONDS)
            self.rows_per_second += weight * (self._rows / passed - self.rows_per_second)
            self._since, self._rows = now, 0


class Delivery:
    """What answers took of late from the end of their run to their callers."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, float]] = deque(maxlen=_DELIVERY_WINDOW)

    def add(self, seconds: float, now: float) -> None:
        self._latest.append((now, seconds))

    def seconds(self, now: float) -> float:
        """What nine of ten took; 0 if there were none."""
        while self._latest and self._latest[0][0] < now - _DELIVERY_MEMORY_SECONDS:
            self._latest.popleft()
        ranked = sorted(seconds for _, seconds in self._latest)
        return ranked[math.ceil(0.9 * len(ranked)) - 1] if ranked else 0.0

    def last_seconds(self, now: float) -> float:
        """What the last one took, and no more than what nine of ten did."""
        seconds = self.seconds(now)
        return min(seconds, self._latest[-1][1]) if self._latest else 0.0


class Objective:
    """What is known of one model's pace, and what follows from it. On the thread that owns the queue.

    Args:
        slo_seconds: within this time each request is to be answered.
        curve: foretells runs, and learns from them here.
        clock: of the thread that owns the queue.

    Attributes:
        occupancy: what each instance has to do, as whoever hands out batches tells it.
        batch_rows: how large batches are when many wait.
    """

    def __init__(self, slo_seconds: float, curve: LatencyCurve, policy: BatchPolicy, clock: Clock) -> None:
        self.occupancy = Occupancy(clock, curve.typical)
        self._slo_seconds = slo_seconds
        self._curve = curve
        self._policy = policy
        self._clock = clock
        self._arrivals = ArrivalRate(clock.now())
        self._delivery = Delivery()
        self._reserve_seconds = 0.0
        self._instances = 0
        self._measured_at = -PROBE_AFTER_SECONDS
        self.batch_rows = policy.full_rows

    def add_instances(self, count: int) -> None:
        self._instances += count
        self._plan_size()

    def check(self, pending: Pending, queue: RequestQueue) -> None:
        """Let a request pass if it can be in time with room to spare, and makes nobody late who was let in before it.

        Raises:
            Overloaded: it cannot; `retry_after_seconds` says when one like it could.
        """
        now = self._clock.now()
        self._arrivals.count(pending.rows, now)
        if not self._curve.is_known:
            return
        if self._is_idle(queue):
            # The crowd that kept the loop busy is gone: the last answer tells more than those before.
            self._reserve_seconds = self._delivery.last_seconds(now)
        outlook = self._outlook(now)
        priority, due = pending.request.priority, pending.due
        before = queue.rows_before(priority, due)
        late_by = self._lateness(before, pending.rows, due, outlook)
        if late_by <= 0:
            late_by = self._lateness_behind(pending, queue, before, outlook)
        if late_by <= 0:
            return
        if self._is_idle(queue) and self._is_probe_due(now):
            pending.is_probe = True
            return
        raise Overloaded(
            f"model '{pending.request.model_name}': too much waits for an answer in time; there is room for it in "
            f"{late_by * 1000:.0f} ms. Send fewer at once, add instances, or allow more time.",
            retry_after_seconds=late_by,
        )

    def time_to_spare(self, queue: RequestQueue) -> float:
        """Seconds that one more row may spend before it asks to be let in, if nothing changes; below 0 for none.

        It may be of the highest priority: nothing was read of it yet.
        """
        if not self._curve.is_known:
            return math.inf
        now = self._clock.now()
        outlook = self._outlook(now)
        waiting = queue.rows_before(HIGHEST_PRIORITY, now + self._slo_seconds)
        soonest = predicted_end(0, 1, outlook, self._curve)
        ahead = 0.0 if self._is_kept(waiting) else predicted_end(waiting, 1, outlook, self._curve) - soonest
        spare = SPARE_SHARE * (now + self._slo_seconds - soonest) - ahead
        if not self._is_idle(queue):
            return spare
        # Who comes to an idle model finds out, even if it seems to be too slow; also while others keep the loop busy.
        return self._slo_seconds if spare < 0 and self._is_probe_due(now) else max(0.0, spare)

    def plan(self, queue: RequestQueue, start_at: float) -> Plan:
        """Choose what an instance runs that is free then; someone is waiting."""
        return plan_batch(queue, self._policy, self._outlook(start_at), self._curve, self.batch_rows)

    def ended(self, batch: Batch, seconds: float) -> None:
        """Learn from the whole time that an instance was taken, not only from the engine's."""
        if len(batch.executions) == 1:
            self._measured_at = self._clock.now()
            is_probe = any(pending.is_probe for pending in batch.pendings)
            self._curve.observe(batch.rows, seconds, is_afresh=is_probe)
            self._plan_size()

    def delivered(self, ended_at: float) -> None:
        """The callers of a batch that ended at that moment have their answers."""
        now = self._clock.now()
        self._delivery.add(now - ended_at, now)
        self._reserve_seconds = self._delivery.seconds(now)

    def _lateness(self, before: int, rows: int, due: float, outlook: Outlook) -> float:
        """By how much it would be too late, or behind too much."""
        end = predicted_end(before, rows, outlook, self._curve)
        if end > due or self._is_kept(before):
            return end - due
        soonest = predicted_end(0, rows, outlook, self._curve)
        return end - soonest - SPARE_SHARE * (due - soonest)

    def _is_idle(self, queue: RequestQueue) -> bool:
        return not self.occupancy and not queue.depth

    def _is_probe_due(self, now: float) -> bool:
        return now - self._measured_at >= PROBE_AFTER_SECONDS

    def _is_kept(self, waiting: int) -> bool:
        """Whether no more wait than the next batch of each instance holds, which is never too many."""
        return waiting <= self.batch_rows * self._instances

    def _lateness_behind(self, pending: Pending, queue: RequestQueue, before: int, outlook: Outlook) -> float:
        """By how much the worst of those whom it overtakes would be late because of it; 0 if none would be."""
        worst = 0.0
        for one in queue.behind(pending.request.priority, pending.due):
            alone = predicted_end(before, one.rows, outlook, self._curve) - one.due
            together = predicted_end(before + pending.rows, one.rows, outlook, self._curve) - one.due
            before += one.rows
            if alone <= 0 < together:
                worst = max(worst, together)
        return worst

    def _outlook(self, at: float) -> Outlook:
        busy = [max(at, free_at) for free_at in self.occupancy.free_times(self._clock.now())]
        idle = self._instances - len(busy)
        return Outlook(
            at,
            [at] * idle + busy if idle else busy,
            self.batch_rows,
            self._arrivals.rows_per_second,
            self._reserve_seconds,
        )

    def _plan_size(self) -> None:
        if self._policy.is_dynamic:
            self.batch_rows = best_batch_rows(
                self._curve, self._slo_seconds, self._reserve_seconds, self._instances, self._arrivals.rows_per_second
            )
