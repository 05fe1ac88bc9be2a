"""The one thing that both programs run: a loaded model on one device."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from enginehouse.tensor import Tensors, TensorSpec


class Engine(Protocol):
    """One loaded model on one device. Call it from one thread at a time."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Tensors) -> Tensors:
        """Compute every output; raises `EngineFailed` with the library's own words."""
        ...

    def close(self) -> None:
        """Give back memory and device; may be called twice."""
        ...


@runtime_checkable
class Killable(Protocol):
    """An engine in a process of its own, which can be ended although it computes."""

    def kill(self) -> None: ...


@runtime_checkable
class Restarted(Protocol):
    """An engine in a process of its own, which is started again each time that ends."""

    @property
    def absence(self) -> str:
        """Why there is no process that computes now; empty if there is one."""
        ...

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back, on any thread, each time that may have changed."""
        ...


def optional_inputs(engine: Engine) -> tuple[TensorSpec, ...]:
    """Inputs beside `inputs` that the engine has a value of its own for; most engines have none."""
    return getattr(engine, "optional_inputs", ())
