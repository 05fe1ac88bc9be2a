"""What loading an engine takes, and whether there is room for it: said before it is tried, not by the kernel after."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from enginehouse.errors import InvalidInput
from service.loading.opening import EngineFile


@dataclass(slots=True, frozen=True)
class Growth:
    """How much a process grows, in multiples of the engine's files.

    Attributes:
        opening: at most, while the first engine is opened: libraries hold the file and their own form of it at once.
        serving: for each engine, once freed memory went back.
    """

    opening: float
    serving: float


# Measured on engines of 105 MB: matrix products 1.9 then 1.1 in ONNX Runtime, convolutions 3.2 then 1.1;
# 2.4 then 2.4 in OpenVINO for both. A plan's weights go to the GPU by way of a buffer of their size.
GROWTH = {
    "onnxruntime_onnx": Growth(3.2, 1.2),
    "openvino": Growth(2.5, 2.5),
    "tensorrt_plan": Growth(2.0, 1.0),
}
_UNKNOWN = Growth(2.0, 2.0)


def needed_bytes(file: EngineFile, instances: int) -> int:
    """Estimate what it takes to open an engine file so many times, one after the other; not at all takes nothing.

    Where the version's evidence says what its engine was measured to take, that counts for what serves.
    """
    if not instances:
        return 0
    growth = GROWTH.get(file.record.platform if file.record else file.platform, _UNKNOWN)
    serving = file.memory_bytes if file.memory_bytes is not None else int(file.size_bytes * growth.serving)
    return max(serving, int(file.size_bytes * growth.opening)) + (instances - 1) * serving


class MemoryBudget:
    """Lets a load begin only if it fits beside what is loaded and what other loads will take.

    Args:
        available: tells how many bytes are left; None where nothing tells.
        share: of what is available a load may take so much; None lets every load try.
    """

    def __init__(self, available: Callable[[], int | None], share: float | None) -> None:
        self._available = available
        self._share = share
        self._promised = 0
        self._lock = threading.Lock()

    @contextmanager
    def room_for(self, name: str, version: int, needed: int) -> Iterator[None]:
        """Keep room for engines while they are opened.

        Raises:
            InvalidInput: there is none; the message has the figures.
        """
        with self._lock:
            self._check(name, version, needed)
            self._promised += needed
        try:
            yield
        finally:
            with self._lock:
                self._promised -= needed

    def _check(self, name: str, version: int, needed: int) -> None:
        available = self._available()
        if self._share is None or available is None:
            return
        allowed = int(available * self._share) - self._promised
        if needed > allowed:
            promised = f", {_megabytes(self._promised)} of which other loads will take" if self._promised else ""
            raise InvalidInput(
                f"model '{name}' version {version} would need about {_megabytes(needed)} of memory to load; "
                f"{_megabytes(available)} are available{promised}, and a load may take {self._share:.0%} of that. "
                "Unload another model, lower the count of its instance_group, give the server more memory, or raise "
                "--model-load-memory-limit (off lets every load try)."
            )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
