"""What runs in a child process: takes its task from the first message, and serves until the other side hangs up.

python -m enginehouse.processes.process_worker MODEL DESCRIPTOR PARENT
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from enginehouse.engine import Engine, optional_inputs
from enginehouse.engine_options import EngineOptions, SessionOptions
from enginehouse.memory_return import return_large_blocks, return_memory
from enginehouse.open_engine import open_engine
from enginehouse.processes.channel import Channel, Message, Words, words_from_error
from enginehouse.tensor import Tensors, TensorSpec

# By the first word of a task: what serves it, called with the channel and the task.
_SERVERS = {
    "engine": "enginehouse.processes.process_worker:serve_engine",
    "python": "enginehouse.processes.python_worker:serve_python",
}
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the other side ends; then end at once, whatever threads the model has left behind."""
    descriptor, parent = int(sys.argv[2]), int(sys.argv[3])
    die_with(parent)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    # A process that a model forks would keep the conversation open after our end.
    os.register_at_fork(after_in_child=connection.close)
    status = 0
    try:
        _serve(Channel(connection))
    except Exception:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(channel: Channel) -> None:
    with contextlib.suppress(OSError):
        task = channel.receive().words
        module, _, name = _SERVERS[task["do"]].partition(":")
        getattr(import_module(module), name)(channel, task)


def die_with(parent: int) -> None:
    """Ask the kernel to end this process with the one that started it, and check that it is still there."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def serve_engine(channel: Channel, task: Words) -> None:
    """Open an engine file, and compute what comes until the other side hangs up (`OSError`)."""
    try:
        engine = engine_from_task(task)
    except Exception as problem:
        channel.send({"error": words_from_error(problem)})
        return
    channel.send(words_from_engine(engine))
    try:
        while True:
            answer(channel, engine.run, channel.receive())
    finally:
        engine.close()


def engine_from_task(task: Words) -> Engine:
    """Open what `process_engine.engine_task` describes, and keep none of what that took; raises as `open_engine`."""
    return_large_blocks()
    engine = open_engine(
        Path(task["path"]),
        task["platform"],
        task["threads"],
        task["provider"],
        task["settings"],
        EngineOptions(**{**task["options"], "session": SessionOptions(**task["options"]["session"])}),
    )
    return_memory()
    return engine


def words_from_engine(engine: Engine) -> Words:
    """What a process says of its engine when it is ready."""
    specs = {"inputs": engine.inputs, "outputs": engine.outputs, "optional_inputs": optional_inputs(engine)}
    return {name: [_words_from_spec(spec) for spec in found] for name, found in specs.items()}


def answer(channel: Channel, run: Callable[[Tensors], Tensors], message: Message) -> None:
    """Compute one message's tensors; whatever goes wrong with them is an answer too."""
    try:
        outputs = run(dict(zip(message.words["names"], message.tensors, strict=True)))
        words: Words = {"names": list(outputs)}
        # Its memory is free for the other side once this answer, which may still view it, is under way.
        channel.give_back(message)
        channel.send(words, list(outputs.values()))
    except OSError:
        raise
    except Exception as problem:
        channel.send({"error": words_from_error(problem)})


def _words_from_spec(spec: TensorSpec) -> list[object]:
    return [spec.name, spec.dtype.name, spec.shape]


if __name__ == "__main__":
    main()
