"""The server's table: from a model's name and version to what serves it. Only the thread of the queues touches it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from enginehouse.errors import InvalidInput, NotFound, NotReady
from service.refusals import not_ready
from service.served import Served

# As long as a number of 64 bits; Python refuses to read much longer ones.
_VERSION = re.compile(r"[0-9]{1,19}")

READY, LOADING, UNLOADING, UNAVAILABLE = "READY", "LOADING", "UNLOADING", "UNAVAILABLE"


@dataclass(slots=True, frozen=True)
class VersionState:
    """Where a version stands in its life, and why, where that needs saying."""

    state: str
    reason: str = ""


class Registry:
    """Models that answer, and the state of every version that was ever asked for."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, Served]] = {}
        self._states: dict[str, dict[int, VersionState]] = {}
        self._newest: dict[str, Served] = {}

    def resolve(self, name: str, version: str) -> Served:
        """Find what answers for a version; empty means the newest.

        Raises:
            NotFound: no such model or version was ever asked for.
            NotReady: it was, and does not answer now.
            InvalidInput: the version is not a whole number.
        """
        if not version:
            model = self._newest.get(name)
            if model is None:
                raise self._why_not(name, None)
            return model
        if not _VERSION.fullmatch(version):
            raise InvalidInput(
                f"failed to get model version from specified version string '{version[:40]}'; expected a whole number."
            )
        model = self._models.get(name, {}).get(int(version))
        if model is None:
            raise self._why_not(name, int(version))
        return model

    def versions(self, name: str) -> list[int]:
        """Versions of a model that answer, oldest first."""
        return sorted(self._models.get(name, {}))

    def answering(self, name: str) -> list[Served]:
        """The versions of a model that answer, oldest first."""
        return [model for _, model in sorted(self._models.get(name, {}).items())]

    def replace(self, name: str, models: Iterable[Served]) -> list[Served]:
        """Let these answer from now on, in one step; tell which answered before and do no more."""
        old = self._models.get(name, {})
        new = {int(model.version): model for model in models}
        self._models[name] = new
        if new:
            self._newest[name] = new[max(new)]
        else:
            self._newest.pop(name, None)
        kept = {id(model) for model in new.values()}
        return [model for model in old.values() if id(model) not in kept]

    def set_state(self, name: str, version: int, state: str, reason: str = "") -> None:
        """Note where a version stands: `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`, and why."""
        self._states.setdefault(name, {})[version] = VersionState(state, reason)

    def states(self, name: str) -> dict[int, VersionState]:
        """The state of each version of a model that was ever asked for, as it is now."""
        return {
            version: self._now(name, version, state) for version, state in sorted(self._states.get(name, {}).items())
        }

    def is_answering(self, name: str) -> bool:
        """Whether any version of a model computes what it is asked."""
        return any(not model.absence for model in self._models.get(name, {}).values())

    def names(self) -> list[str]:
        """Models that were ever asked for."""
        return sorted(set(self._states) | set(self._models))

    def served(self) -> Iterator[Served]:
        """Everything that answers, by name and version."""
        for name in sorted(self._models):
            yield from self.answering(name)

    def _now(self, name: str, version: int, state: VersionState) -> VersionState:
        """What is loaded may have lost the processes that compute, until they are started again."""
        model = self._models.get(name, {}).get(version)
        absence = model.absence if model is not None and state.state == READY else ""
        return VersionState(UNAVAILABLE, absence) if absence else state

    def _why_not(self, name: str, version: int | None) -> NotFound | NotReady:
        states = self._states.get(name)
        if states is None:
            return NotFound(f"Request for unknown model: '{name[:100]}' is not found")
        if version is None:
            reasons = "; ".join(f"version {number}: {state.reason}" for number, state in states.items() if state.reason)
            because = f" ({reasons})" if reasons else ""
            return NotReady(f"Request for unknown model: '{name}' has no version at ready state{because}")
        if version not in states:
            return NotFound(f"Request for unknown model: '{name}' version {version} is not found")
        return not_ready(name, str(version))
