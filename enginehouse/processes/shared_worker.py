"""The process of an engine that several servers share: each has a channel of its own, and they compute in turns.

python -m enginehouse.processes.shared_worker MODEL NAME LISTENER DIRECTORY

It belongs to nobody: it goes on when the server that started it ends, and ends by itself a while after the last left.
"""

import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Condition, Lock, Thread

import orjson

from enginehouse.engine import Engine
from enginehouse.processes.channel import Channel, words_from_error
from enginehouse.processes.meeting_place import PASSWORD, forget, inode_of, locked
from enginehouse.processes.process_worker import answer, engine_from_task, words_from_engine
from enginehouse.tensor import Tensors

# A server says its password as soon as it is connected.
_PASSWORD_SECONDS = 5.0
_MOST_VISITORS = 100
_CREDENTIALS = struct.Struct("3i")


def main() -> None:
    """Open the engine that the first words describe, and serve until nobody is left."""
    name, listener, directory = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    # Who ends all that belongs to a server lets it finish what is in flight, and that may be here.
    for asked_to_end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked_to_end, signal.SIG_IGN)
    for descriptor in (listener, directory):
        os.set_inheritable(descriptor, False)
    inode = inode_of(directory, name)
    visitors = Visitors(socket.socket(fileno=listener))
    Thread(target=visitors.let_in, name="door", daemon=True).start()
    status, patience_seconds = 0, 0.0
    try:
        task = orjson.loads(sys.stdin.buffer.read())
        visitors.opened(engine_from_task(task))
        patience_seconds = task["linger_seconds"]
    except Exception as problem:
        traceback.print_exc()
        status = 1
        # Whoever comes from now on tries anew.
        with _locked(directory):
            forget(directory, name, inode)
        visitors.failed(problem)
    while True:
        visitors.wait_until_gone(patience_seconds)
        with _locked(directory):
            if visitors.are_gone():
                forget(directory, name, inode)
                # At once, whatever threads the library has left behind.
                os._exit(status)


class Turns:
    """Lets one thread at a time through, in the order in which they came: `with turns:`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_taken = False
        self._waiting: deque[Lock] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = Lock()
            mine.acquire()
            self._waiting.append(mine)
        mine.acquire()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._is_taken = False


class Visitors:
    """Those who are connected: each is served by a thread of its own, which nobody else waits for."""

    def __init__(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._changed = Condition()
        self._count = 0
        self._engine: Future[Engine] = Future()
        self._turns = Turns()

    def opened(self, engine: Engine) -> None:
        """Serve everybody, those who wait for it first."""
        self._engine.set_result(engine)

    def failed(self, problem: Exception) -> None:
        """Tell everybody what is wrong."""
        self._engine.set_exception(problem)

    def wait_until_gone(self, patience_seconds: float) -> None:
        """Return when nobody was there for so long."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: not self._count)
                if not self._changed.wait_for(lambda: self._count, patience_seconds):
                    return

    def are_gone(self) -> bool:
        """Whether nobody is there, and nobody at the door."""
        with self._changed:
            return not self._count and not select.select([self._listener], [], [], 0)[0]

    def let_in(self) -> None:
        """Let visitors in for ever."""
        while True:
            select.select([self._listener], [], [])
            try:
                with self._changed:
                    self._let_one_in()
            except (OSError, RuntimeError):
                # No more files or threads: nothing tells when there are some again.
                time.sleep(0.1)

    def _let_one_in(self) -> None:
        connection, _ = self._listener.accept()
        if self._count >= _MOST_VISITORS or not _is_ours(connection):
            connection.close()
            return
        Thread(target=self._receive, args=(connection,), name="visitor", daemon=True).start()
        self._count += 1
        self._changed.notify_all()

    def _receive(self, connection: socket.socket) -> None:
        try:
            with connection:
                if _knows_password(connection):
                    self._serve(Channel(connection))
        except OSError:
            # It left, or never said what it wanted.
            pass
        except Exception:
            # What is no message ends the conversation, and nothing else.
            traceback.print_exc()
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    def _serve(self, channel: Channel) -> None:
        try:
            engine = self._engine.result()
        except Exception as problem:
            channel.send({"error": words_from_error(problem)})
            return
        channel.send({**words_from_engine(engine), "pid": os.getpid()})

        def run(feeds: Tensors) -> Tensors:
            with self._turns:
                return engine.run(feeds)

        while True:
            answer(channel, run, channel.receive())


def _knows_password(connection: socket.socket) -> bool:
    """Read what a server says first, for a while; not a byte more, because descriptors may come with what follows."""
    connection.settimeout(_PASSWORD_SECONDS)
    said = b""
    while len(said) < len(PASSWORD) and (more := connection.recv(len(PASSWORD) - len(said))):
        said += more
        if not PASSWORD.startswith(said):
            return False
    connection.settimeout(None)
    return said == PASSWORD


def _is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end is of our own user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1]) == os.geteuid()


@contextmanager
def _locked(directory: int) -> Iterator[None]:
    """The lock, or nothing where somebody has removed the directory: then nobody can come either."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(locked(directory))
        yield


if __name__ == "__main__":
    main()
