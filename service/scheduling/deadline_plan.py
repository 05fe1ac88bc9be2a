"""Pure choices under deadlines: who can be let in, how large batches should be, and what runs now.

The predicted end of a request is the sum of what runs, what waits before it in full batches, and its own batch. A
request is let in only if that is within its deadline, so that the line never holds work that will be late, and the
batches at its head can be large (Nexus, SOSP 2019, shows what happens otherwise: a head that is nearly late allows only
small batches, which make those behind it late). What nevertheless comes too late is dropped before it runs.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from service.scheduling.batch import BatchPolicy
from service.scheduling.latency_curve import LatencyCurve


class Due(Protocol):
    """What the choice must know of a request in the line."""

    @property
    def rows(self) -> int: ...
    @property
    def shape_key(self) -> Hashable: ...
    @property
    def due(self) -> float: ...
    @property
    def level(self) -> int: ...
    @property
    def is_probe(self) -> bool: ...


@dataclass(slots=True, frozen=True)
class Outlook:
    """What is known of a moment in which a request asks to be let in, or an instance is free for a batch.

    Attributes:
        now: that moment, which may be still to come.
        free_at: when each instance can start its next batch, ascending, none before now.
        batch_rows: how large batches are when many wait.
        rows_per_second: of requests that ask to be let in.
        reserve_seconds: what an answer takes from the end of its run to its caller.
    """

    now: float
    free_at: Sequence[float]
    batch_rows: int
    rows_per_second: float
    reserve_seconds: float


@dataclass(slots=True, frozen=True)
class Plan:
    """The first `late` of the line cannot be in time and are refused; then the next `count` run together."""

    late: int
    count: int


def predicted_end(rows_before: int, rows: int, outlook: Outlook, curve: LatencyCurve) -> float:
    """When a request with so many rows before it has its answer, if it is let in now.

    Instances that are busy become free within one batch of each other, so they take turns. Its own batch also holds
    who came before it and does not fill a batch of their own, and who is expected to come until it starts. Runs vary
    independently of each other, so what several vary by grows with the root of their number.
    """
    full = max(outlook.batch_rows, rows)
    batches, partial = divmod(rows_before, full)
    if partial + rows > full:
        batches, partial = batches + 1, 0
    rounds, turn = divmod(batches, len(outlook.free_at))
    start = outlook.free_at[turn] + rounds * curve.typical(full)
    company = math.ceil(outlook.rows_per_second * (start - outlook.now))
    own = curve.typical(min(full, partial + rows + company))
    runs = 1 + rounds + (outlook.free_at[turn] > outlook.now)
    return start + own + (curve.spread - 1) * own * math.sqrt(runs) + outlook.reserve_seconds


def best_batch_rows(
    curve: LatencyCurve, slo_seconds: float, reserve_seconds: float, instances: int, rows_per_second: float
) -> int:
    """The size with which most rows are answered in time when more ask than can be; the largest of equals.

    A batch of m rows that takes S must start S before the deadline of each of its members. Of those who come while
    the one before it runs, only those are in time who come in the last `slo - S`.
    """
    largest = curve.sizes[-1]
    if not curve.is_known:
        return largest
    asked = max(rows_per_second, *(rows * instances / curve.typical(rows) for rows in curve.sizes))

    def answered_per_second(rows: int) -> float:
        between = curve.typical(rows) / instances
        slack = slo_seconds - reserve_seconds - curve.seconds(rows)
        return 0.0 if slack < 0 else min(rows, max(1.0, asked * min(slack, between))) / between

    answers = {rows: answered_per_second(rows) for rows in curve.sizes}
    best = max(answers.values())
    # Estimates are noisy: within a twentieth the larger one costs the loop less.
    return max(rows for rows, answered in answers.items() if answered >= 0.95 * best) if best else 1


def plan_batch(
    waiting: Iterable[Due], policy: BatchPolicy, outlook: Outlook, curve: LatencyCurve, batch_rows: int
) -> Plan:
    """Choose what an instance runs that is free at `outlook.now`, so that nobody in the batch is late because of it.

    The line comes in its order: by level, then by deadline. Who would be late even alone is refused. If the head
    leaves room only for a small batch, and that would make others of its level late, as many of the first are
    refused as lets most rows be answered: few for many.
    """
    limit = max(1, min(batch_rows, policy.full_rows))
    line = list(islice(waiting, 2 * max(limit, policy.max_batch_rows, 1)))
    late = _first_in_time(line, 0, outlook, curve)
    if late == len(line):
        return Plan(late, 0)
    if not policy.is_dynamic or policy.max_batch_rows == 0:
        return Plan(late, 1)
    first = _fit(line, late, limit, outlook, curve)
    if not first.is_cut_by_deadline or not _makes_late(line, late, first, limit, outlook, curve):
        return Plan(late, first.count)
    return _few_for_many(line, late, first, limit, outlook, curve)


@dataclass(slots=True, frozen=True)
class _Fit:
    """The longest batch from one place of the line on, and whether a deadline is what keeps it from growing."""

    count: int
    rows: int
    is_cut_by_deadline: bool


def _first_in_time(line: Sequence[Due], start: int, outlook: Outlook, curve: LatencyCurve) -> int:
    place = start
    while place < len(line) and not _is_in_time(line[place], line[place].rows, outlook, curve):
        place += 1
    return place


def _is_in_time(one: Due, rows: int, outlook: Outlook, curve: LatencyCurve) -> bool:
    return one.is_probe or outlook.now + curve.seconds(rows) + outlook.reserve_seconds <= one.due


def _fit(line: Sequence[Due], start: int, limit: int, outlook: Outlook, curve: LatencyCurve) -> _Fit:
    rows, tightest = line[start].rows, _room(line[start])
    place = start + 1
    while place < len(line):
        one = line[place]
        if one.shape_key != line[start].shape_key or rows + one.rows > limit:
            return _Fit(place - start, rows, is_cut_by_deadline=False)
        tightest = min(tightest, _room(one))
        if outlook.now + curve.seconds(rows + one.rows) + outlook.reserve_seconds > tightest:
            return _Fit(place - start, rows, is_cut_by_deadline=True)
        rows += one.rows
        place += 1
    return _Fit(place - start, rows, is_cut_by_deadline=False)


def _room(one: Due) -> float:
    return math.inf if one.is_probe else one.due


def _makes_late(
    line: Sequence[Due], start: int, batch: _Fit, limit: int, outlook: Outlook, curve: LatencyCurve
) -> bool:
    """Whether the next batch of the same level could not be in time any more, if this one ran first."""
    behind = [one for one in line[start + batch.count :] if one.level == line[start].level]
    if not behind:
        return False
    rows = min(limit, sum(one.rows for one in behind))
    # Another instance may be free sooner than the one that runs this batch.
    start_at = min([*outlook.free_at[1:], outlook.now + curve.seconds(batch.rows)])
    return start_at + curve.seconds(rows) + outlook.reserve_seconds > behind[0].due


def _few_for_many(
    line: Sequence[Due], start: int, first: _Fit, limit: int, outlook: Outlook, curve: LatencyCurve
) -> Plan:
    """The start that is worth most: rows answered, less what full batches answer in the same time."""
    best, best_worth = Plan(start, first.count), _worth(first, limit, curve)
    place = start + 1
    while place < len(line) and line[place].level == line[start].level:
        place = _first_in_time(line, place, outlook, curve)
        if place == len(line) or line[place].level != line[start].level:
            break
        batch = _fit(line, place, limit, outlook, curve)
        # Who is refused here could have been answered in the batch that is given up.
        worth = _worth(batch, limit, curve)
        if worth > best_worth:
            best, best_worth = Plan(place, batch.count), worth
        if not batch.is_cut_by_deadline:
            break
        place += 1
    return best


def _worth(batch: _Fit, limit: int, curve: LatencyCurve) -> float:
    return batch.rows - limit / curve.seconds(limit) * curve.seconds(batch.rows)
