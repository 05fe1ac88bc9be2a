"""Shares named resources among the instances of all models: one starts a batch only while it has what it needs.

As Triton's rate limiter in mode `execution_count`: of the instances that wait, the one with the least product of its
runs and its priority comes first, so that priority 1 runs twice as often as priority 2. Who waits also keeps those
behind it from the resources it waits for; others pass.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup
from service.clock import Clock

# Resources are counted per device; those of a CPU belong to device 0, as with Triton.
CPU_DEVICE = 0


@dataclass(slots=True, frozen=True)
class Resource:
    """Something that there are only so many of: on one device, or, with None, in the whole server."""

    name: str
    device: int | None


@dataclass(slots=True, frozen=True)
class ResourceLimit:
    """How many there are, as `--rate-limit-resource name:count[:device]` says it; None for each device."""

    name: str
    count: int
    device: int | None = None


@dataclass(slots=True, frozen=True)
class Needs:
    """What one instance must have while it runs a batch."""

    resources: Mapping[Resource, int]
    priority: int = 1


class Permit:
    """An instance's place at the limiter. On the thread that owns the queues."""

    def __init__(self, limiter: "RateLimiter", needs: Needs, runs: float) -> None:
        self.needs = needs
        self.runs = runs
        self.is_held = False
        self.has_left = False
        self.on_grant: Callable[[], None] | None = None
        self._limiter = limiter

    @property
    def order(self) -> float:
        """The least of those that wait comes first."""
        return self.runs * max(self.needs.priority, 1)

    def ask(self, on_grant: Callable[[], None]) -> bool:
        """Take what the instance needs: True if it is there now, else `on_grant` is called once it is."""
        self._limiter.ask(self, on_grant)
        return self.is_held

    def give_back(self, has_run: bool = True) -> None:
        """Give the resources back; an instance that did not run keeps its turn."""
        self.runs += has_run
        self._limiter.give_back(self)

    def leave(self) -> None:
        """The instance will ask no more; what it still has comes back with `give_back`."""
        self._limiter.leave(self)


class RateLimiter:
    """All resources of a server.

    Args:
        clock: of the thread that owns the queues.
        limits: how many there are of each; with none given, as many as the most demanding instance needs.
    """

    def __init__(self, clock: Clock, limits: Sequence[ResourceLimit] = ()) -> None:
        self._clock = clock
        self._limits = limits
        self._permits: list[Permit] = []
        self._asking: list[Permit] = []
        self._held: dict[Resource, int] = {}
        self._is_round_due = False

    def join(self, wishes: Iterable[Needs]) -> list[Permit]:
        """Give each instance of a model its place.

        Raises:
            InvalidInput: one needs more than there is; nobody joined.
        """
        asked = list(wishes)
        self._check([permit.needs for permit in self._permits] + asked)
        # Who comes late does not catch up with what the others ran before.
        runs = min((permit.order for permit in self._permits), default=0.0)
        joined = [Permit(self, needs, runs / max(needs.priority, 1)) for needs in asked]
        self._permits += joined
        return joined

    def ask(self, permit: Permit, on_grant: Callable[[], None]) -> None:
        """Put an instance in line, and serve the line; `on_grant` is not called for what is granted at once."""
        permit.on_grant = on_grant
        self._asking.append(permit)
        for granted, tell in self._granted():
            if granted is not permit:
                tell()

    def give_back(self, permit: Permit) -> None:
        """Free what an instance held, for those that wait, in the next iteration of the loop."""
        permit.is_held = False
        for resource, count in permit.needs.resources.items():
            self._held[resource] -= count
        if permit.has_left:
            self._permits.remove(permit)
        # Not at once: who gives back may ask again in the same breath, and takes its turn with the others.
        self._call_round()

    def leave(self, permit: Permit) -> None:
        """Let an instance out of the line; what it holds stays taken until it is given back."""
        permit.has_left = True
        if permit in self._asking:
            self._asking.remove(permit)
        if not permit.is_held:
            self._permits.remove(permit)
        self._call_round()

    def _call_round(self) -> None:
        if not self._is_round_due:
            self._is_round_due = True
            self._clock.call_soon(self._round)

    def _round(self) -> None:
        self._is_round_due = False
        for _, tell in self._granted():
            tell()

    def _granted(self) -> list[tuple[Permit, Callable[[], None]]]:
        """Give resources to those whose turn it is; whoever is to be told of it."""
        told: list[tuple[Permit, Callable[[], None]]] = []
        taken: set[Resource] = set()
        for permit in sorted(self._asking, key=lambda one: one.order):
            wanted = permit.needs.resources
            if taken.isdisjoint(wanted) and all(self._is_free(one, count) for one, count in wanted.items()):
                for resource, count in wanted.items():
                    self._held[resource] = self._held.get(resource, 0) + count
                permit.is_held = True
                self._asking.remove(permit)
                assert permit.on_grant is not None
                told.append((permit, permit.on_grant))
            else:
                taken.update(wanted)
        return told

    def _is_free(self, resource: Resource, count: int) -> bool:
        return self._held.get(resource, 0) + count <= self._count([one.needs for one in self._permits], resource)

    def _count(self, everybody: Iterable[Needs], resource: Resource) -> int:
        if not self._limits:
            return max((needs.resources.get(resource, 0) for needs in everybody), default=0)
        fitting = [limit for limit in self._limits if limit.name == resource.name]
        if resource.device is not None:
            fitting = [limit for limit in fitting if limit.device in (None, resource.device)]
        return max((limit.count for limit in fitting), default=0)

    def _check(self, everybody: Sequence[Needs]) -> None:
        wanted = {resource for needs in everybody for resource in needs.resources}
        whole = {resource.name for resource in wanted if resource.device is None}
        for resource in sorted(wanted, key=lambda one: one.name):
            if resource.device is not None and resource.name in whole:
                raise InvalidInput(
                    f"rate limiter resource '{resource.name}' is global for one model and of a device for another; "
                    "it must be the same for all."
                )
            count = self._count(everybody, resource)
            needed = max(needs.resources.get(resource, 0) for needs in everybody)
            if needed > count:
                raise InvalidInput(
                    f"rate limiter resource '{resource.name}' is limited to {count}, and an instance needs {needed}: "
                    f"it would never run. Give --rate-limit-resource {resource.name}:{needed} or more."
                )


def needs_from_config(config: ModelConfig) -> list[Needs]:
    """What each instance needs, in the order of the instance groups."""
    return [needs for group in config.instance_group for needs in [_needs(group)] * max(1, group.count)]


def _needs(group: ModelInstanceGroup) -> Needs:
    device = group.gpus[0] if group.gpus else CPU_DEVICE
    resources: dict[Resource, int] = {}
    for one in group.rate_limiter.resources:
        resources[Resource(one.name, None if getattr(one, "global") else device)] = one.count
    return Needs(resources, max(1, group.rate_limiter.priority))


def limit_from_text(text: str) -> ResourceLimit:
    """Read `name:count[:device]`; raises `InvalidInput`."""
    name, *numbers = text.split(":")
    if not name or not 1 <= len(numbers) <= 2 or not all(number.isdecimal() for number in numbers):
        raise InvalidInput(f"--rate-limit-resource is '{text[:80]}'; name:count or name:count:device is expected.")
    count, *device = (int(number) for number in numbers)
    return ResourceLimit(name, count, device[0] if device else None)
