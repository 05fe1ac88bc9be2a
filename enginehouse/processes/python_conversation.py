"""One life of a Python model's process: what it says, and what it is told by threads that must not wait for it.

Neither side can drown the other. Of the responses before a last one, the process sends no more than the server has
passed on, but for a few (`taken`). Of the answers to its own calls, it is sent no more than it has copied, but for a
few; what waits here meanwhile is counted by `OpenCalls`, which says when it is too much.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Condition, Lock, Thread

from enginehouse.dtype import Array
from enginehouse.errors import Error
from enginehouse.processes.channel import Channel, Message, Words, words_from_error

# Answers to its calls that the model has not read yet, all calls together; a call that gives more is ended.
MAX_UNREAD_ANSWERS = 10_000
MAX_UNREAD_BYTES = 1 << 28
# Messages that the process has not copied yet; each may lie in a block of memory of its own.
_UNCOPIED_MESSAGES = 16
# Blocks of memory that the process may have given us before it must hear that we read them.
_UNSAID_BLOCKS = 4
# Responses that we may have passed on before the process must hear of it, although more of them are here.
_UNSAID_RESPONSES, _UNSAID_BYTES = 16, 1 << 24

Take = Callable[["Conversation", Words, list[Array]], None]
TakeBack = Callable[[], object]


@dataclass(slots=True)
class _OpenCall:
    take_back: TakeBack
    unread: int = 0
    unread_bytes: int = 0


class OpenCalls:
    """What one process asks other models and has no last answer to yet."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._calls: dict[int, _OpenCall] = {}
        self._unread = 0
        self._unread_bytes = 0

    def __len__(self) -> int:
        return len(self._calls)

    def open(self, number: int) -> None:
        with self._guard:
            self._calls[number] = _OpenCall(lambda: None)

    def can_be_taken_back(self, number: int, take_back: TakeBack) -> None:
        """Say how a call is taken back; nothing to say if it was answered meanwhile."""
        with self._guard:
            if number in self._calls:
                self._calls[number].take_back = take_back

    def add_unread(self, number: int, size: int) -> bool:
        """Count an answer before the last one; False if too many wait to be read. One alone may have any size."""
        with self._guard:
            is_full = self._unread >= MAX_UNREAD_ANSWERS or self._unread_bytes + size > MAX_UNREAD_BYTES
            if self._unread and is_full:
                return False
            call = self._calls.get(number)
            if call is not None:
                call.unread += 1
                call.unread_bytes += size
                self._unread += 1
                self._unread_bytes += size
            return True

    def read(self, number: int, count: int, size: int) -> None:
        """The model has read so many answers."""
        with self._guard:
            call = self._calls.get(number)
            if call is not None:
                call.unread -= count
                call.unread_bytes -= size
                self._unread -= count
                self._unread_bytes -= size

    def close(self, number: int) -> TakeBack | None:
        """Forget a call: how it is taken back, or None if it was forgotten before."""
        with self._guard:
            call = self._calls.pop(number, None)
            if call is None:
                return None
            self._unread -= call.unread
            self._unread_bytes -= call.unread_bytes
            return call.take_back

    def is_open(self, number: int) -> bool:
        return number in self._calls

    def take_back_all(self) -> None:
        """Nobody waits for any answer any more."""
        for number in list(self._calls):
            take_back = self.close(number)
            if take_back is not None:
                take_back()


class Conversation:
    """Reads and writes on threads of its own, from `begin` until the process or its channel ends.

    Args:
        take: is given each message with its tensors, which are its to keep.
        on_nonsense: told of a message that is none; nothing more is read.
    """

    def __init__(self, channel: Channel, take: Take, on_nonsense: Callable[[Exception], None]) -> None:
        self.calls = OpenCalls()
        self._channel = channel
        self._take = take
        self._on_nonsense = on_nonsense
        self._changed = Condition()
        self._is_over = False
        self._notices: deque[Words] = deque()
        self._answers: deque[tuple[Words, Sequence[Array]]] = deque()
        self._uncopied = 0
        self._untaken = 0
        self._taken = 0
        self._taken_bytes = 0

    def begin(self) -> None:
        Thread(target=self._read, name="python-model-reader", daemon=True).start()
        Thread(target=self._write, name="python-model-sender", daemon=True).start()

    def end(self) -> None:
        """The process is gone: nothing more is sent, and nobody waits for what it asked."""
        with self._changed:
            self._is_over = True
            self._answers.clear()
            self._changed.notify()
        self.calls.take_back_all()

    def tell(self, words: Words) -> None:
        """Send a notice, ahead of the answers that wait."""
        with self._changed:
            self._notices.append(words)
            self._changed.notify()

    def answer(self, words: Words, tensors: Sequence[Array]) -> None:
        """Send an answer to one of its calls, behind the earlier ones, as soon as it has copied most of those."""
        with self._changed:
            self._answers.append((words, tensors))
            self._changed.notify()

    def copied(self, count: int) -> None:
        """The process has copied so many answers with tensors."""
        with self._changed:
            self._uncopied -= count
            self._changed.notify()

    def hold(self, size: int) -> Callable[[], None]:
        """Count a response of so many bytes that is here; what is returned must be called once it was passed on."""
        with self._changed:
            self._untaken += 1
        return partial(self._pass_on, size)

    def _pass_on(self, size: int) -> None:
        with self._changed:
            self._untaken -= 1
            self._taken += 1
            self._taken_bytes += size
            is_much = self._taken >= _UNSAID_RESPONSES or self._taken_bytes >= _UNSAID_BYTES
            # Whoever waits over there may wait for the last of these.
            if is_much or self._untaken == 0:
                self._notices.append({"taken": [self._taken, self._taken_bytes]})
                self._taken = self._taken_bytes = 0
                self._changed.notify()

    def _read(self) -> None:
        channel = self._channel
        try:
            while True:
                message = channel.receive()
                tensors = [tensor.copy() for tensor in message.tensors]
                self._give_back(message)
                self._take(self, message.words, tensors)
        except OSError:
            # The child has ended, or this side can read no more, for want of descriptors say: then the child ends too.
            channel.shut()
        except Exception as problem:
            # What is no message is as bad as none.
            self._on_nonsense(problem)

    def _give_back(self, message: Message) -> None:
        message.tensors.clear()
        if self._channel.give_back(message) >= _UNSAID_BLOCKS:
            with self._changed:
                if not self._notices:
                    self._notices.append({})
                    self._changed.notify()

    def _write(self) -> None:
        with suppress(OSError):
            while (letter := self._next()) is not None:
                self._send(*letter)

    def _next(self) -> tuple[Words, Sequence[Array]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._notices or self._can_answer())
            if self._is_over:
                return None
            if self._notices:
                return self._notices.popleft(), ()
            words, tensors = self._answers.popleft()
            self._uncopied += bool(tensors)
            return words, tensors

    def _can_answer(self) -> bool:
        return bool(self._answers) and self._uncopied < _UNCOPIED_MESSAGES

    def _send(self, words: Words, tensors: Sequence[Array]) -> None:
        try:
            self._channel.send(words, tensors)
        except Error as problem:
            self.copied(bool(tensors))
            failed = {"error": words_from_error(problem), "is_last": True, "is_empty": False}
            self._channel.send({**words, **failed})
