"""A process that does one task and is started again, ever later, each time it ends by itself."""

import contextlib
import logging
import os
import signal
import site
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition, Thread
from typing import Protocol

from enginehouse.errors import EngineCrashed, EngineFailed, Error, NotReady
from enginehouse.processes.channel import Channel, Message, Words, error_from_words

_log = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.1
LONGEST_DELAY_SECONDS = 30.0
# One that served for so long had no reason to end in its start: what comes after begins with the first delay.
LONG_LIFE_SECONDS = 60.0
CLOSE_PATIENCE_SECONDS = 10.0
# From the end of the conversation to the end of the process.
_HANG_UP_SECONDS = 5.0
ROOT = Path(__file__).parents[2]


@dataclass(slots=True, frozen=True)
class Task:
    """What a process is for.

    Attributes:
        model: whose name it carries, for people who list processes and for messages.
        words: what it is told first, see `process_worker`.
        environment: variables that it has besides those of this process.
    """

    model: str
    words: Words
    environment: Mapping[str, str] = field(default_factory=dict)


class Host(Protocol):
    """A process that does a task, at the other end of a channel. It may be ours alone, or not."""

    channel: Channel

    def greet(self) -> Words:
        """Wait until it is ready, and hear what it says of itself, its `pid` included; raises what went wrong."""
        ...

    def wait(self) -> None:
        """Return once it has ended, or the conversation has."""
        ...

    def kill(self) -> None:
        """End it, or our part in it, at once; no harm once that is over."""
        ...

    def how_it_ended(self) -> str:
        """Collect what is left of it after `kill`; how it ended, as the rest of a sentence about it."""
        ...


class Child:
    """A process of our own, which ends with this one, however that ends, and has none of its files and sockets."""

    def __init__(self, task: Task) -> None:
        self._task = task
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "enginehouse.processes.process_worker"]
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, task.model, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                process_group=0,
                env={**child_environment(), **task.environment},
            )
        self.channel = Channel(ours)

    def greet(self) -> Words:
        with contextlib.suppress(OSError):
            self.channel.send(self._task.words)
        try:
            words = read_greeting(self.channel)
        except OSError:
            how = how_it_ended(self._status_after_hanging_up())
            raise EngineFailed(f"the process of model '{self._task.model}' {how} before it was ready.") from None
        return {**words, "pid": self._process.pid}

    def wait(self) -> None:
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def kill(self) -> None:
        """End it and what it started. The number is still its own, as long as nobody has collected it."""
        if self._process.returncode is None:
            _kill_group(self._process.pid)

    def how_it_ended(self) -> str:
        return how_it_ended(self._process.wait())

    def _status_after_hanging_up(self) -> int:
        try:
            return self._process.wait(_HANG_UP_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(self._process.pid)
            return self._process.wait()


class WorkerProcess:
    """Keeps one process at a task. The first start blocks, and raises what went wrong.

    Args:
        task: what the process does.
        on_start: told of each process that is ready, before anybody else can reach it.
        on_end: told that a process ended, and how; those who wait for its answers have none to expect.
        start: brings a process to the task; one of our own if nothing else is said.

    Raises:
        Error: what the process said went wrong, or that it ended before it was ready.
    """

    def __init__(
        self,
        task: Task,
        on_start: Callable[[Channel], None] = lambda _: None,
        on_end: Callable[[EngineCrashed], None] = lambda _: None,
        start: Callable[[Task], Host] = Child,
    ) -> None:
        self._task = task
        self._on_start = on_start
        self._on_end = on_end
        self._watchers: list[Callable[[], None]] = []
        self._start = start
        self._changed = Condition()
        self._host: Host | None = None
        self._pid = 0
        self._channel: Channel | None = None
        self._is_closing = False
        self._delay_seconds = FIRST_DELAY_SECONDS
        self._ready_at: float | None = None
        self._starts_at = 0.0
        self._last_end = EngineCrashed(f"the process of model '{task.model}' was not started.")
        first: Future[Words] = Future()
        # One thread from the first child to the last: the kernel ends a child with the thread that started it.
        self._thread = Thread(target=self._supervise, args=(first,), name=f"{task.model}-process", daemon=True)
        self._thread.start()
        self.greeting = first.result()

    @property
    def pid(self) -> int | None:
        """Of the process that is ready; None while there is none."""
        with self._changed:
            return self._pid if self._channel is not None else None

    @property
    def is_ready(self) -> bool:
        return self._channel is not None

    @property
    def absence(self) -> str:
        """Why there is no process that is ready, and when there will be; empty if there is one."""
        return "" if self.is_ready else self._why_there_is_none()

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back, on the thread that keeps the process, each time one came or went."""
        self._watchers.append(callback)

    def channel(self) -> Channel:
        """The way to the process; raises `NotReady` saying why there is none, and when there will be."""
        channel = self._channel
        if channel is None:
            raise self._why_not()
        return channel

    def end_of(self, channel: Channel) -> EngineCrashed:
        """How the process at the other end of a channel ended; waits until that is known."""
        channel.shut()
        with self._changed:
            self._changed.wait_for(lambda: self._channel is not channel, CLOSE_PATIENCE_SECONDS)
            return EngineCrashed(f"{str(self._last_end).removesuffix('.')} while it computed.")

    def close(self, patience_seconds: float = CLOSE_PATIENCE_SECONDS) -> None:
        """Let the process end what it has to, for so long; then end it. May be called twice."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            if self._channel is not None:
                self._channel.shut()
            else:
                self.kill()
        self._thread.join(patience_seconds)
        self.kill()
        self._thread.join()

    def kill(self) -> None:
        """End the process at once, and what it started. Unless this was closed, another one is started."""
        with self._changed:
            if self._host is not None:
                self._host.kill()

    def _supervise(self, first: "Future[Words]") -> None:
        while not self._is_closing:
            try:
                self._live(first)
            except Exception as problem:
                if not first.done():
                    first.set_exception(problem)
                    return
                self._note_failed_start(problem)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing, max(0.0, self._starts_at - time.monotonic()))

    def _live(self, first: "Future[Words]") -> None:
        """Start a process and stay until it ended."""
        host = self._start(self._task)
        with self._changed:
            self._host = host
            if self._is_closing:
                host.kill()
        try:
            greeting = host.greet()
            self._on_start(host.channel)
            with self._changed:
                self._ready_at = time.monotonic()
                self._pid = greeting["pid"]
                self._channel = host.channel
                if self._is_closing:
                    host.channel.shut()
            if not first.done():
                first.set_result(greeting)
            self._tell_watchers()
            host.wait()
        finally:
            self._reap(host)
        if not self._is_closing:
            _log.error("%s", self._last_end)

    def _reap(self, host: Host) -> None:
        """End what is left of a process, and tell everybody."""
        with self._changed:
            host.kill()
            self._host = None
        end = EngineCrashed(f"the process of model '{self._task.model}' {host.how_it_ended()}.")
        host.channel.shut()
        with self._changed:
            self._channel = None
            self._last_end = end
            self._plan_next_start()
            self._changed.notify_all()
        self._on_end(end)
        self._tell_watchers()

    def _tell_watchers(self) -> None:
        for callback in self._watchers:
            callback()

    def _note_failed_start(self, problem: Exception) -> None:
        if not self._is_closing:
            # As text: whoever keeps the record would keep the channel of the frame that raised it.
            _log.error("model '%s' could not be started again: %s", self._task.model, str(problem))
        with self._changed:
            self._last_end = EngineCrashed(f"the process of model '{self._task.model}' did not start: {problem}")
            # Where there was a process, its end has planned the next start already.
            if self._starts_at <= time.monotonic():
                self._plan_next_start()

    def _plan_next_start(self) -> None:
        now = time.monotonic()
        if self._ready_at is not None and now - self._ready_at > LONG_LIFE_SECONDS:
            self._delay_seconds = FIRST_DELAY_SECONDS
        self._ready_at = None
        self._starts_at = now + self._delay_seconds
        self._delay_seconds = min(2 * self._delay_seconds, LONGEST_DELAY_SECONDS)

    def _why_not(self) -> NotReady:
        advice = "" if self._is_closing else " Send the request again then."
        return NotReady(self._why_there_is_none() + advice)

    def _why_there_is_none(self) -> str:
        if self._is_closing:
            return f"the process of model '{self._task.model}' was ended; the model is being unloaded."
        seconds = self._starts_at - time.monotonic()
        when = f"it starts again in {seconds:.1f} s" if seconds >= 0.05 else "it is starting again"
        return f"{str(self._last_end).removesuffix('.')}; {when}."


def read_greeting(channel: Channel) -> Words:
    """What a process says when it is ready; raises what it says went wrong, or `OSError` if it hung up."""
    message: Message = channel.receive()
    channel.give_back(message)
    if "error" in message.words:
        problem: Error = error_from_words(message.words["error"])
        raise problem
    return message.words


def child_environment() -> dict[str, str]:
    """Ours, and where this package lies if Python would not find it there by itself."""
    environment = dict(os.environ)
    if str(ROOT) not in site.getsitepackages():
        known = environment.get("PYTHONPATH", "").split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*filter(None, known), str(ROOT)]))
    return environment


def how_it_ended(status: int) -> str:
    """The status of a process in words, as the rest of a sentence about it."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"was ended by signal {-status}"


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
