"""How much memory an engine takes: what a process of its own grows by when it opens the engine and runs it."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

from enginehouse.errors import EngineFailed
from enginehouse.tensor import Tensors
from optimizer.build.open_artifact import Artifact, open_artifact

_RUNS = 3


def memory_bytes(artifact: Artifact, feeds: Tensors, threads: int) -> int:
    """Resident bytes that opening and running the engine adds.

    Raises:
        EngineFailed: the process died, or the engine failed in it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(artifact, feeds, threads, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError as problem:
        raise EngineFailed(f"the process that measured the memory of {artifact.path.name} died.") from problem
    finally:
        process.join()
        receiver.close()
    if isinstance(found, str):
        raise EngineFailed(found)
    return int(found)


def _measure(artifact: Artifact, feeds: Tensors, threads: int, sender: Connection) -> None:
    try:
        open_artifact(artifact, threads)  # its libraries are loaded by then, and stay
        before = _resident_bytes()
        engine = open_artifact(artifact, threads)
        for _ in range(_RUNS):
            engine.run(feeds)
        sender.send(max(0, _resident_bytes() - before))
    except EngineFailed as problem:
        sender.send(str(problem))


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
