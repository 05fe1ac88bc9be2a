"""An engine in a process of its own, behind the same protocol: what it does to that process hurts nobody else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from enginehouse.dtype import dtype_from_name
from enginehouse.engine_options import EngineOptions
from enginehouse.processes.channel import Words, error_from_words
from enginehouse.processes.worker_process import Child, Host, Task, WorkerProcess
from enginehouse.tensor import Tensors, TensorSpec


class ProcessEngine:
    """An engine file opened in another process; its weights are in that process only.

    A process that ends fails what it was computing (`EngineCrashed`) and is started again, ever later; until then the
    engines of the same model that were told of each other step in, and without one runs are refused (`NotReady`).

    Args:
        task: what `engine_task` makes of the arguments of `open_engine`.
        start: brings a process to the task: one of this engine's own, or one that other servers use too.

    Raises:
        Error: as `open_engine`, in that process's words; or `EngineFailed` where it ended over it.
    """

    def __init__(self, task: Task, start: Callable[[Task], Host] = Child) -> None:
        self._worker = WorkerProcess(task, start=start)
        self._siblings: Sequence[ProcessEngine] = (self,)
        self._computing = Lock()
        self.inputs = specs_from_words(self._worker.greeting["inputs"])
        self.outputs = specs_from_words(self._worker.greeting["outputs"])
        self.optional_inputs = specs_from_words(self._worker.greeting["optional_inputs"])

    @property
    def pid(self) -> int | None:
        """Of the process that is ready; None while there is none."""
        return self._worker.pid

    @property
    def absence(self) -> str:
        """Why there is no process that is ready; empty if there is one."""
        return self._worker.absence

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back, on any thread, each time the process came or went."""
        self._worker.watch(callback)

    def run(self, feeds: Tensors) -> Tensors:
        """Compute in the process; raises what its engine raised, `EngineCrashed` or `NotReady`."""
        for engine in self._siblings:
            if engine._worker.is_ready:
                return engine._compute(feeds)
        return self._compute(feeds)

    def close(self) -> None:
        """End the process, which gives all its memory back, or leave it to others; may be called twice."""
        self._worker.close()

    def kill(self) -> None:
        """End the process at once, although it computes, or leave it to others."""
        self._worker.kill()

    def _compute(self, feeds: Tensors) -> Tensors:
        # One that steps in may be asked from two threads.
        with self._computing:
            channel = self._worker.channel()
            try:
                channel.send({"names": list(feeds)}, list(feeds.values()))
                message = channel.receive()
            except OSError:
                raise self._worker.end_of(channel) from None
            if "error" in message.words:
                raise error_from_words(message.words["error"])
            outputs = {
                name: tensor.copy() for name, tensor in zip(message.words["names"], message.tensors, strict=True)
            }
            message.tensors.clear()
            channel.give_back(message)
            return outputs


def engine_task(
    model: str,
    path: Path,
    platform: str,
    threads: int,
    provider: str,
    settings: Mapping[str, str] | None = None,
    options: EngineOptions | None = None,
) -> Task:
    """What a process is told that is to open an engine file; `model` is the name that it carries."""
    words: Words = {"do": "engine", "path": str(path.absolute()), "platform": platform, "threads": threads}
    words |= {"provider": provider, "settings": dict(settings or {}), "options": asdict(options or EngineOptions())}
    return Task(model, words)


def let_step_in(engines: Sequence[ProcessEngine]) -> None:
    """Tell the engines of one model of each other: one whose child is being started again lets the others compute."""
    for position, engine in enumerate(engines):
        engine._siblings = (*engines[position:], *engines[:position])


def specs_from_words(words: Sequence[Sequence[object]]) -> tuple[TensorSpec, ...]:
    """Tensor specs as a child writes them."""
    return tuple(TensorSpec(str(name), dtype_from_name(str(dtype)), tuple(shape)) for name, dtype, shape in words)  # type: ignore[arg-type]
