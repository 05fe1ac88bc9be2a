"""The server's side of a Python model: one process that runs its requests, and asks other models through us."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Event, Lock
from typing import Any

from google.protobuf import json_format

from enginehouse.dtype import Array, size_of
from enginehouse.errors import EngineCrashed, EngineFailed, Error, InvalidInput, NotReady, NotSupported, Overloaded
from enginehouse.model_config import dtype_from_config, engine_shape
from enginehouse.processes.channel import Channel, Words, error_from_words, words_from_error
from enginehouse.processes.python_conversation import MAX_UNREAD_ANSWERS, MAX_UNREAD_BYTES, Conversation
from enginehouse.processes.worker_process import Task, WorkerProcess
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInput, ModelOutput
from enginehouse.python_model import Parameter, Position
from enginehouse.sequence_config import controls_from_config
from enginehouse.tensor import Tensors, TensorSpec


def _nobody_waits() -> None:
    """Of a response that counts for nothing."""


@dataclass(slots=True, frozen=True)
class Reply:
    """One response to a request; the last one may be no more than the end.

    Attributes:
        taken: to be called, on any thread, once it was passed on: the model waits with its next ones for that.
    """

    outputs: Tensors = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    error: Error | None = None
    is_last: bool = True
    is_empty: bool = False
    taken: Callable[[], None] = _nobody_waits


@dataclass(slots=True, frozen=True)
class Job:
    """A request for the model.

    Attributes:
        on_reply: takes each response, on any thread; exactly one of them is the last.
        owner: whatever stands for it elsewhere; handed on with the calls that the model makes for it.
        is_cancelled: whether nobody waits for the answer any more; see also `PythonEngine.cancel`.
    """

    feeds: Tensors
    on_reply: Callable[[Reply], None]
    outputs: Sequence[str] = ()
    id: str = ""
    parameters: dict[str, Parameter] = field(default_factory=dict)
    sequence: Position | None = None
    seconds_left: float | None = None
    owner: object = None
    is_cancelled: Callable[[], bool] = bool


@dataclass(slots=True, frozen=True)
class ModelCall:
    """What a model asks another one.

    Attributes:
        owner: of the job that it is asked for; None if it is asked for none.
        reply: takes each response, on any thread, up to the last.
    """

    model: str
    version: str
    inputs: Tensors
    outputs: Sequence[str]
    parameters: dict[str, Parameter]
    sequence: Position | None
    timeout_seconds: float | None
    owner: object
    reply: Callable[[Reply], None]


Ask = Callable[[ModelCall], Callable[[], object]]
"""Passes a call on; what it returns takes it back, because nobody waits for the answer any more."""


class PythonEngine:
    """A `model.py` in a process of its own, which is started again, ever later, each time it ends.

    Args:
        config: of the model; the tensors that it names are those of the engine.
        path: of the model's file, in its version's directory.

    Raises:
        Error: what went wrong as the model was loaded, in its own words.
    """

    def __init__(self, config: ModelConfig, path: Path, instance: int, threads: int, on_gpu: bool) -> None:
        if not config.input or not config.output:
            raise InvalidInput(
                f"model '{config.name}': a Python model's config.pbtxt must name its inputs and outputs."
            )
        if config.sequence_batching.state:
            raise NotSupported(
                f"model '{config.name}': sequence_batching.state is not for Python models; "
                "keep the state in the model, by `request.sequence.id`."
            )
        self.inputs = (*_specs(config, config.input), *_control_specs(config))
        self.outputs = _specs(config, config.output)
        self._is_decoupled = config.model_transaction_policy.decoupled
        self._siblings: Sequence[PythonEngine] = (self,)
        self._executing = Lock()
        self._executed = Event()
        self._jobs: dict[int, Job] = {}
        self._numbers = count()
        self._ask: Ask = _refuse
        self._conversation: Conversation | None = None
        task = Task(config.name, _task_words(config, path, instance, on_gpu), {"OMP_NUM_THREADS": str(threads)})
        self._worker = WorkerProcess(task, self._listen, self._lose)

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

    def connect(self, ask: Ask) -> None:
        """Let the model ask other models."""
        self._ask = ask

    def run(self, feeds: Tensors) -> Tensors:
        """Answer one request, as an engine does; the last outputs, if there are several."""
        outputs: dict[str, Array] = {}
        errors: list[Error] = []
        is_over = Event()

        def take(reply: Reply) -> None:
            outputs.update(reply.outputs)
            if reply.error is not None:
                errors.append(reply.error)
            reply.taken()
            if reply.is_last:
                is_over.set()

        self.execute([Job(feeds, take, [spec.name for spec in self.outputs])])
        is_over.wait()
        if errors:
            raise errors[0]
        return outputs

    def execute(self, jobs: Sequence[Job]) -> None:
        """Run requests together; returns when the model's `execute` did.

        By then all of a model's last replies came, unless it is decoupled: those may come at any later time.

        Raises:
            NotReady: the process is being started again; there will be no replies.
            InvalidInput: a request cannot be sent; there will be no replies.
        """
        ready = (engine for engine in self._siblings if engine._worker.is_ready)
        next(ready, self)._execute(jobs)

    def cancel(self, owner: object) -> None:
        """Tell the model that nobody waits for an answer any more."""
        self._tell_of(owner, {"cancel": True})

    def pace(self, owner: object, is_behind: bool) -> None:
        """Let the model wait with its next response while the caller is behind with reading them."""
        self._tell_of(owner, {"pace": is_behind})

    def close(self) -> None:
        """End the model, and then its process; may be called twice."""
        self._worker.close()

    def kill(self) -> None:
        """End the process at once, although it computes."""
        self._worker.kill()

    def _execute(self, jobs: Sequence[Job]) -> None:
        with self._executing:
            channel = self._worker.channel()
            numbered = {next(self._numbers): job for job in jobs}
            words = [_words_from_job(number, job) for number, job in numbered.items()]
            self._executed.clear()
            self._jobs.update(numbered)
            try:
                channel.send({"execute": words}, [array for job in jobs for array in job.feeds.values()])
            except OSError:
                self._fail(numbered, self._worker.end_of(channel))
            except BaseException:
                for number in numbered:
                    self._jobs.pop(number, None)
                raise
            else:
                # Those who left on the way here were not found by `cancel`.
                for number in [number for number, job in numbered.items() if job.is_cancelled()]:
                    self._tell({"cancel": True, "number": number})
                self._executed.wait()

    def _listen(self, channel: Channel) -> None:
        self._conversation = Conversation(channel, self._take, self._end_nonsense)
        self._conversation.begin()

    def _end_nonsense(self, problem: Exception) -> None:
        self._fail(dict(self._jobs), EngineFailed(f"the model's process said what is no answer: {problem}"))
        self._worker.kill()

    def _take(self, conversation: Conversation, words: Words, tensors: list[Array]) -> None:
        """Take what a child says; what becomes of its requests when it ends is said by `_lose`."""
        if "answers" in words:
            self._take_answers(conversation, words, tensors)
        elif "call" in words:
            self._pass_on(conversation, words, tensors)
        elif "take_back" in words:
            take_back = conversation.calls.close(words["take_back"])
            if take_back is not None:
                take_back()
        elif "read" in words:
            conversation.calls.read(*words["read"])
        elif "copied" in words:
            conversation.copied(words["copied"])

    def _take_answers(self, conversation: Conversation, message: Words, tensors: list[Array]) -> None:
        given = iter(tensors)
        for words in message["answers"]:
            number, is_last = words["number"], words["is_last"]
            job = self._jobs.pop(number, None) if is_last else self._jobs.get(number)
            outputs = {name: next(given) for name in words.get("names", ())}
            error = error_from_words(words["error"]) if "error" in words else None
            taken = conversation.hold(words["held"]) if "held" in words else _nobody_waits
            if job is None:
                taken()
            else:
                job.on_reply(Reply(outputs, words.get("parameters", {}), error, is_last, words["is_empty"], taken))
        if message.get("has_executed"):
            self._executed.set()

    def _pass_on(self, conversation: Conversation, words: Words, tensors: list[Array]) -> None:
        number, calls = words["call"], conversation.calls
        job = self._jobs.get(words["on_behalf_of"])

        def reply(answer: Reply) -> None:
            if calls.is_open(number):
                self._answer(conversation, number, answer)

        call = ModelCall(
            words["model"],
            words["version"],
            dict(zip(words["names"], tensors, strict=True)),
            words["outputs"],
            words["parameters"],
            None if words["sequence"] is None else Position(*words["sequence"]),
            words["timeout_seconds"],
            None if job is None else job.owner,
            reply,
        )
        calls.open(number)
        calls.can_be_taken_back(number, self._ask(call))

    def _answer(self, conversation: Conversation, number: int, reply: Reply) -> None:
        """Let the model have an answer, unless so many wait that it will never read them all."""
        words: Words = {"answer_to": number}
        take_back = None
        if reply.is_last:
            conversation.calls.close(number)
        else:
            words["size"] = sum(map(size_of, reply.outputs.values()))
            if not conversation.calls.add_unread(number, words["size"]):
                take_back = conversation.calls.close(number)
                reply = Reply(error=_too_many_unread())
        conversation.answer({**words, **_words_from_reply(reply)}, list(reply.outputs.values()))
        if take_back is not None:
            take_back()

    def _lose(self, end: EngineCrashed) -> None:
        """The child is gone: so are its requests, and nobody waits for what it asked."""
        self._fail(dict(self._jobs), EngineCrashed(f"{str(end).removesuffix('.')} while it computed."))
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.end()
        self._executed.set()

    def _fail(self, jobs: dict[int, Job], error: Error) -> None:
        for number, job in jobs.items():
            if self._jobs.pop(number, None) is not None:
                job.on_reply(Reply(error=error))

    def _tell_of(self, owner: object, words: Words) -> None:
        for engine in self._siblings:
            for number in [number for number, job in list(engine._jobs.items()) if job.owner is owner]:
                engine._tell({**words, "number": number})

    def _tell(self, words: Words) -> None:
        conversation = self._conversation
        if conversation is not None:
            conversation.tell(words)


def let_step_in(engines: Sequence[PythonEngine]) -> None:
    """Tell the instances of one model of each other: one whose child is being started again lets the others compute."""
    for position, engine in enumerate(engines):
        engine._siblings = (*engines[position:], *engines[:position])


def _refuse(call: ModelCall) -> Callable[[], None]:
    call.reply(Reply(error=NotReady(f"model '{call.model}' cannot be asked before this one serves.")))
    return lambda: None


def _too_many_unread() -> Overloaded:
    return Overloaded(
        f"{MAX_UNREAD_ANSWERS} answers of other models, or {MAX_UNREAD_BYTES >> 20} MiB of them, wait to be read by "
        "this one; read faster, or ask for fewer."
    )


def _specs(config: ModelConfig, tensors: Sequence[ModelInput] | Sequence[ModelOutput]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(one.name, dtype_from_config(one), engine_shape(config, one)) for one in tensors)


def _control_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    shape = (-1, 1) if config.max_batch_size > 0 else (1,)
    return tuple(TensorSpec(control.name, control.dtype, shape) for control in controls_from_config(config))


def _task_words(config: ModelConfig, path: Path, instance: int, on_gpu: bool) -> Words:
    arguments = {
        "model": config.name,
        "version": int(path.parent.name) if path.parent.name.isdecimal() else 0,
        "directory": str(path.parent),
        "instance": instance,
        "device": "gpu" if on_gpu else "cpu",
        "config": json_format.MessageToDict(config, preserving_proto_field_name=True),
        "parameters": {key: value.string_value for key, value in config.parameters.items()},
    }
    is_decoupled = config.model_transaction_policy.decoupled
    return {"do": "python", "path": str(path), "arguments": arguments, "is_decoupled": is_decoupled}


def _words_from_job(number: int, job: Job) -> Words:
    position = job.sequence
    return {
        "number": number,
        "names": list(job.feeds),
        "outputs": list(job.outputs),
        "id": job.id,
        "parameters": job.parameters,
        "sequence": None if position is None else [position.id, position.is_start, position.is_end],
        "seconds_left": job.seconds_left,
    }


def _words_from_reply(reply: Reply) -> Words:
    words: dict[str, Any] = {"is_last": reply.is_last, "is_empty": reply.is_empty}
    if reply.error is not None:
        return {**words, "error": words_from_error(reply.error)}
    return {**words, "names": list(reply.outputs), "parameters": reply.parameters}
