"""The one thing that both programs run: a loaded model on one device."""

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


def optional_inputs(engine: Engine) -> tuple[TensorSpec, ...]:
    """Inputs beside `inputs` that the engine has a value of its own for; most engines have none."""
    return getattr(engine, "optional_inputs", ())
