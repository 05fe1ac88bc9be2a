"""The child's conversation with the server about a Python model's requests, and about what the model asks others.

The other side is `python_conversation`, which says how neither drowns the other.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any

import numpy as np

from enginehouse.dtype import Array, size_of
from enginehouse.errors import EngineFailed, Error, InvalidInput
from enginehouse.processes.channel import Channel, Message, Words, error_from_words, words_from_error
from enginehouse.python_model import Call, InvalidRequest, ModelError, Response

# Calls to other models that have no last answer yet; one more is refused.
MAX_OPEN_CALLS = 1024
# Responses before a last one that the server has not passed on yet; whoever sends one more waits.
MAX_UNTAKEN_RESPONSES = 64
MAX_UNTAKEN_BYTES = 1 << 24
# Blocks of memory, and answers, that were copied or read before the server must hear of it.
_UNSAID_BLOCKS = 4
_UNSAID_ANSWERS, _UNSAID_BYTES = 64, 1 << 24


class Window:
    """Responses on their way to callers: only so many at once, or so many bytes; one alone may have any size."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._count = 0
        self._bytes = 0
        self._slow: set[int] = set()
        self._is_over = False

    def enter(self, number: int, size: int) -> None:
        """Wait for room, and for the caller of a request; raises `ModelError` if the server has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or (number not in self._slow and self._has_room(size)))
            if self._is_over:
                raise ModelError("the server ended before this response was sent.")
            self._count += 1
            self._bytes += size

    def pace(self, number: int, is_behind: bool) -> None:
        """The caller of a request is behind with reading its responses, or is not any more."""
        with self._changed:
            (self._slow.add if is_behind else self._slow.discard)(number)
            self._changed.notify_all()

    def leave(self, count: int, size: int) -> None:
        with self._changed:
            self._count -= count
            self._bytes -= size
            self._changed.notify_all()

    def end(self) -> None:
        """Nobody takes anything any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _has_room(self, size: int) -> bool:
        is_full = self._count >= MAX_UNTAKEN_RESPONSES or self._bytes + size > MAX_UNTAKEN_BYTES
        return self._count == 0 or not is_full


class WorkerHost:
    """Reads what the server says, on a thread of its own, and hands it to whoever waits for it."""

    def __init__(self, channel: Channel) -> None:
        self.batches: SimpleQueue[Message | int | None] = SimpleQueue()
        self.unanswered: dict[int, bool] = {}
        self.is_serving = False
        self._channel = channel
        self._window = Window()
        # What is said in passing, and from where one must not wait: by the thread that reads, and by destructors.
        self._notices: SimpleQueue[Words | None] = SimpleQueue()
        self._calls: dict[int, SimpleQueue[Message | None]] = {}
        self._call_numbers = count()
        self._copied = 0
        Thread(target=self._read, name="reader", daemon=True).start()
        Thread(target=self._notify, name="sender", daemon=True).start()

    def call(self, call: Call) -> Iterator[Response]:
        """Ask now, although nobody may look at the answers yet."""
        if not self.is_serving:
            raise ModelError(f"model '{call.model}' cannot be asked before this one serves.")
        if len(self._calls) >= MAX_OPEN_CALLS:
            raise ModelError(f"model '{call.model}' cannot be asked: {MAX_OPEN_CALLS} calls have no last answer yet.")
        number = next(self._call_numbers)
        answers: SimpleQueue[Message | None] = SimpleQueue()
        self._calls[number] = answers
        position = call.sequence
        words: Words = {
            "call": number,
            "model": call.model,
            "version": call.version,
            "names": list(call.inputs),
            "outputs": list(call.outputs),
            "parameters": dict(call.parameters),
            "sequence": None if position is None else [position.id, position.is_start, position.is_end],
            "timeout_seconds": call.timeout_seconds,
            "on_behalf_of": call.on_behalf_of,
        }
        try:
            self._channel.send(words, [np.asarray(array) for array in call.inputs.values()])
        except InvalidInput as problem:
            del self._calls[number]
            raise ModelError(f"model '{call.model}' cannot be asked: {problem}") from problem
        return self._responses(number, answers)

    def is_cancelled(self, number: int) -> bool:
        return self.unanswered.get(number, True)

    def respond(self, number: int, response: Response | None, is_last: bool) -> None:
        # Nobody would get a response to a cancelled request, but that the model is done with it counts.
        if number in self.unanswered and (is_last or not self.unanswered[number]):
            self.send([(number, response or Response())], is_last=is_last, is_empty=response is None)

    def forget(self, number: int) -> None:
        # From a destructor, which may run in the middle of anything: the runner tells the caller.
        if number in self.unanswered:
            self.batches.put(number)

    def send(
        self, responses: Sequence[tuple[int, Response]], is_last: bool = True, is_empty: bool = False, **more: Any
    ) -> None:
        """Send responses; one that cannot be sent becomes an error that says why, and does not hurt the others.

        What is not the last one waits until most of its predecessors were passed on.
        """
        held: Words = {}
        try:
            forms = [words_from_response(number, response) for number, response in responses]
            arrays = [array for _, own in forms for array in own]
            if not is_last:
                size = sum(map(size_of, arrays))
                self._window.enter(responses[0][0], size)
                held = {"held": size}
            answers = [{**words, "is_last": is_last, "is_empty": is_empty, **held} for words, _ in forms]
            self._channel.send({"answers": answers, **more}, arrays)
        except InvalidInput as problem:
            if held:
                self._window.leave(1, held["held"])
            if len(responses) > 1:
                for one in responses:
                    self.send([one], is_last)
                self._channel.send({"answers": [], **more})
                return
            failed = Response(error=ModelError(f"a response of the model cannot be sent: {problem}"))
            self.send([(responses[0][0], failed)], is_last, **more)
        if is_last:
            for number, _ in responses:
                self.unanswered.pop(number, None)
                self._window.pace(number, is_behind=False)

    def _responses(self, number: int, answers: "SimpleQueue[Message | None]") -> Iterator[Response]:
        is_over = False
        read, read_bytes = 0, 0
        try:
            while not is_over:
                message = answers.get()
                if message is None:
                    raise ModelError("the server ended before the other model answered.")
                words = message.words
                is_over = words["is_last"]
                if "error" in words:
                    raise ModelError(str(error_from_words(words["error"])))
                read, read_bytes = read + 1, read_bytes + words.get("size", 0)
                if read >= _UNSAID_ANSWERS or read_bytes >= _UNSAID_BYTES:
                    self._notices.put({"read": [number, read, read_bytes]})
                    read = read_bytes = 0
                outputs = dict(zip(words["names"], message.tensors, strict=True))
                if not words["is_empty"]:
                    yield Response(outputs, parameters=words["parameters"])
        finally:
            self._calls.pop(number, None)
            if not is_over:
                self._notices.put({"take_back": number})

    def _read(self) -> None:
        try:
            while True:
                self._take(self._channel.receive())
        except OSError:
            self._window.end()
            self._notices.put(None)
            self.batches.put(None)
            for answers in list(self._calls.values()):
                answers.put(None)

    def _notify(self) -> None:
        with suppress(OSError):
            while (words := self._notices.get()) is not None:
                self._channel.send(words)

    def _take(self, message: Message) -> None:
        # Whoever gets the tensors may keep them; the server gets its memory back.
        own = Message(message.words, [tensor.copy() for tensor in message.tensors], None)
        words = own.words
        is_much = self._channel.give_back(message) >= _UNSAID_BLOCKS
        self._copied += "answer_to" in words and bool(own.tensors)
        if is_much or self._copied >= _UNSAID_BLOCKS:
            self._notices.put({"copied": self._copied})
            self._copied = 0
        if "taken" in words:
            self._window.leave(*words["taken"])
        elif "execute" in words:
            self.unanswered.update((request["number"], False) for request in words["execute"])
            self.batches.put(own)
        elif "cancel" in words and words["number"] in self.unanswered:
            self.unanswered[words["number"]] = True
            self._window.pace(words["number"], is_behind=False)
        elif "pace" in words and not self.unanswered.get(words["number"], True):
            self._window.pace(words["number"], words["pace"])
        elif "answer_to" in words and words["answer_to"] in self._calls:
            self._calls[words["answer_to"]].put(own)


def words_from_response(number: int, response: Response) -> tuple[Words, list[Array]]:
    """Raises `InvalidInput` for what is not as a response should be."""
    if response.error is not None:
        problem = response.error if isinstance(response.error, ModelError) else ModelError(response.error)
        return {"number": number, "error": words_from_error(model_error(problem))}, []
    try:
        words: Words = {"number": number, "names": list(response.outputs), "parameters": dict(response.parameters)}
        return words, [np.asarray(array) for array in response.outputs.values()]
    except (TypeError, ValueError, AttributeError) as problem:
        raise InvalidInput(f"outputs and parameters must be mappings, of arrays and of values: {problem}") from problem


def model_error(problem: BaseException) -> Error:
    """What a client is told: the model's own words, or what it raised."""
    if isinstance(problem, Error):
        return problem
    if isinstance(problem, InvalidRequest):
        return InvalidInput(str(problem))
    if isinstance(problem, ModelError):
        return EngineFailed(str(problem))
    return EngineFailed(f"the model raised {type(problem).__name__}: {problem}")
