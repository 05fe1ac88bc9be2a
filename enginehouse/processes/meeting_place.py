"""A private directory in which servers of one machine find the process that has an engine open, or start it.

Each engine has a socket there, whose name is a digest of all that the engine is opened from. Who looks for one holds
the lock of the directory until it is connected, and a process that ends for want of visitors holds it while it looks
whether anybody came: so two never start one engine, and nobody connects to a process that is about to leave. A socket
that nobody listens to was left by a process that was killed, and makes way.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import socket
import stat
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import orjson

from enginehouse.errors import EngineFailed, InvalidInput, NotReady
from enginehouse.processes.channel import Channel, Words
from enginehouse.processes.worker_process import ROOT, Task, child_environment, how_it_ended, read_greeting

_log = logging.getLogger(__name__)

# What a server says first. The number counts changes of what is said after it: those who differ do not meet.
PASSWORD = b"enginehouse shared engine 1\n"
# After the last server left: as long as one that is started again takes to come back.
LINGER_SECONDS = 5.0
_COMMAND = (sys.executable, "-P", "-m", "enginehouse.processes.shared_worker")
_BACKLOG = 128
_LOCK, _SOCKET, _LOG = "lock", ".sock", ".log"
_LONGEST_LOG_BYTES = 1 << 20
# Of all variables, those that decide on which device an engine runs.
_DEVICE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


class MeetingPlace:
    """The directory; it is made if it is not there.

    Raises:
        InvalidInput: it is no directory, is not ours, or others have rights to it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as problem:
            raise InvalidInput(
                f"shared engines cannot meet in '{directory}': {problem.strerror}. Name a directory that can be made."
            ) from problem
        weakref.finalize(self, os.close, self._descriptor)
        self._refuse_others()
        self._sweep()

    def meet(self, task: Task, instance: int) -> "SharedHost":
        """Connect to the process that has an engine open; without one, start it.

        Raises:
            EngineFailed: a file of the engine cannot be read, or the directory not be used.
            NotReady: the process takes no connections.
        """
        name = name_of_engine(task, instance)
        with self._locked():
            connection = self._connect(name)
            if connection is None:
                self._start(name, task)
                connection = self._connect(name)
        if connection is None:
            raise NotReady(f"the process of model '{task.model}' that several servers share ended as it was started.")
        return SharedHost(task.model, connection)

    def is_running(self, task: Task, instance: int) -> bool:
        """Whether a process has an engine open, or opens it now."""
        with contextlib.suppress(EngineFailed), self._locked():
            return self._is_listening(name_of_engine(task, instance))
        return False

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with locked(self._descriptor):
                yield
        except OSError as problem:
            raise EngineFailed(
                f"shared engines cannot meet in '{self._directory}': {problem}. If it was removed, "
                "start the server again."
            ) from problem

    def _refuse_others(self) -> None:
        found = os.fstat(self._descriptor)
        mode = stat.S_IMODE(found.st_mode)
        if found.st_uid != os.geteuid() or mode & 0o077:
            raise InvalidInput(
                f"shared engines cannot meet in '{self._directory}': it belongs to user {found.st_uid} with mode "
                f"{mode:04o}, and must belong to user {os.geteuid()} with mode 0700. Name one that does not exist yet, "
                "or chmod 700 it."
            )

    def _sweep(self) -> None:
        """Take away what processes left that were killed and not started again."""
        with locked(self._descriptor):
            for found in self._directory.glob("*" + _SOCKET):
                if not self._is_listening(found.stem):
                    forget(self._descriptor, found.stem, inode_of(self._descriptor, found.stem))

    def _is_listening(self, name: str) -> bool:
        try:
            connection = self._connect(name)
        except NotReady:
            return True
        if connection is not None:
            connection.close()
        return connection is not None

    def _connect(self, name: str) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Who holds the lock must not wait for a process that hangs.
        connection.setblocking(False)
        try:
            connection.connect(_address(self._descriptor, name))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except OSError as problem:
            connection.close()
            raise NotReady(f"the shared process {name} takes no connections: {problem}. If it hangs, end it.") from None
        connection.setblocking(True)
        return connection

    def _start(self, name: str, task: Task) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name + _SOCKET, dir_fd=self._descriptor)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(_address(self._descriptor, name))
            listener.listen(_BACKLOG)
            descriptors = (listener.fileno(), self._descriptor)
            with self._open_log(name) as log:
                process = subprocess.Popen(  # noqa: S603 - our own module
                    [*_COMMAND, task.model, name, *map(str, descriptors)],
                    pass_fds=descriptors,
                    stdin=subprocess.PIPE,
                    # Not ours: it would hold our output open after our end, and wait for whoever reads that.
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**child_environment(), **task.environment},
                )
        Thread(target=_collect, args=(process, task.model), name="shared-engine-starter", daemon=True).start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as first_words:
            first_words.write(orjson.dumps({**task.words, "linger_seconds": LINGER_SECONDS}))

    @contextmanager
    def _open_log(self, name: str) -> Iterator[int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(name + _LOG, flags, 0o600, dir_fd=self._descriptor)
        try:
            if os.fstat(descriptor).st_size > _LONGEST_LOG_BYTES:
                os.ftruncate(descriptor, 0)
            yield descriptor
        finally:
            os.close(descriptor)


class SharedHost:
    """Our part in a process that other servers use too: ending it means no more than to leave."""

    def __init__(self, model: str, connection: socket.socket) -> None:
        self._model = model
        self._connection = connection
        self.channel = Channel(connection)

    def greet(self) -> Words:
        try:
            self._connection.sendall(PASSWORD)
            return read_greeting(self.channel)
        except OSError:
            how = self.how_it_ended()
            raise EngineFailed(f"the process of model '{self._model}' {how} before it was ready.") from None

    def wait(self) -> None:
        self.channel.wait_until_over()

    def kill(self) -> None:
        self.channel.shut()

    def how_it_ended(self) -> str:
        return "that several servers share ended"


@contextmanager
def locked(directory: int) -> Iterator[None]:
    """Hold the lock of an open directory, against other processes and threads; a process that ends lets go of it."""
    descriptor = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def forget(directory: int, name: str, inode: int | None) -> None:
    """Take the socket and the log of an engine away, unless the socket is another one by now; hold the lock."""
    with contextlib.suppress(FileNotFoundError):
        if inode_of(directory, name) == inode:
            os.unlink(name + _SOCKET, dir_fd=directory)
            os.unlink(name + _LOG, dir_fd=directory)


def inode_of(directory: int, name: str) -> int | None:
    """Which file the socket of an engine is; None if there is none."""
    try:
        return os.stat(name + _SOCKET, dir_fd=directory).st_ino
    except FileNotFoundError:
        return None


def name_of_engine(task: Task, instance: int) -> str:
    """Equal for those who can share an engine; raises `EngineFailed` where its files cannot be read.

    All files of its directory count, because those that hold its weights may have any name.
    """
    path = Path(task.words["path"])
    try:
        files = [_identity(path)]
    except OSError as problem:
        raise EngineFailed(f"the engine file '{path}' cannot be read: {problem.strerror}.") from problem
    for beside in sorted(path.parent.rglob("*")):
        # One that goes at this moment holds no weights.
        with contextlib.suppress(OSError):
            files.append(_identity(beside))
    devices = {name: os.environ.get(name) for name in _DEVICE_VARIABLES}
    program = [PASSWORD.decode(), sys.executable, str(ROOT)]
    words = [program, task.model, task.words, dict(task.environment), devices, instance, files]
    return hashlib.sha256(orjson.dumps(words, option=orjson.OPT_SORT_KEYS)).hexdigest()[:32]


def _identity(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _address(directory: int, name: str) -> str:
    """By way of the open directory: the address of a socket has no room for a long path."""
    return f"/proc/self/fd/{directory}/{name}{_SOCKET}"


def _collect(process: "subprocess.Popen[bytes]", model: str) -> None:
    status = process.wait()
    if status:
        _log.error("process %d of model '%s', shared by several servers, %s", process.pid, model, how_it_ended(status))
