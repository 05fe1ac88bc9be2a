"""An engine without a library behind it, for tests of everything above the engine."""

from collections.abc import Callable, Sequence

from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors, TensorSpec


class FakeEngine:
    """Compute with a plain function, remember every batch, and fail on demand."""

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        function: Callable[[Tensors], Tensors],
    ) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.runs: list[Tensors] = []
        self.failures: list[Exception] = []
        self.is_closed = False
        self._function = function

    def run(self, feeds: Tensors) -> Tensors:
        if self.is_closed:
            raise EngineFailed("the engine is closed.")
        self.runs.append(feeds)
        if self.failures:
            raise self.failures.pop(0)
        return self._function(feeds)

    def close(self) -> None:
        self.is_closed = True
