"""One request on its way through an ensemble: steps run as soon as their inputs are there, each tensor is let go of
as soon as nobody needs it, and the caller is answered exactly once. Runs on the thread that owns the queues.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from enginehouse.errors import DeadlineExceeded, EngineFailed, Error, InvalidInput, Overloaded
from service.clock import Clock
from service.ensembles.ensemble_plan import EnsemblePlan, PlannedStep, Route
from service.ensembles.ensemble_tensors import TensorsByName
from service.ensembles.step_errors import in_step
from service.ensembles.tensor_scope import TensorScope
from service.request import (
    Admitted,
    Infer,
    InferRequest,
    InferResponse,
    Parameter,
    SequencePosition,
    Timings,
    WireTensor,
)
from service.reserved_parameters import SEQUENCE_PARAMETERS, parameters_of, sequence_of

# Answers of a decoupled step that may wait for the steps behind it: more than any stream of words, less than a flood.
MAX_WAITING_ANSWERS = 10_000

# Executions of one step for one request at once, where the configuration says nothing: enough to fill a batch.
DEFAULT_STEP_LIMIT = 64


@dataclass(slots=True, frozen=True)
class Spent:
    """What the steps of a request took so far, in seconds."""

    queue: float = 0.0
    compute_input: float = 0.0
    compute_infer: float = 0.0
    compute_output: float = 0.0

    def plus(self, timings: Timings) -> "Spent":
        return Spent(
            self.queue + timings.queue,
            self.compute_input + timings.compute_input,
            self.compute_infer + timings.compute_infer,
            self.compute_output + timings.compute_output,
        )


@dataclass(slots=True, frozen=True)
class RunHooks:
    """What a run tells the ensemble it works for.

    Attributes:
        on_answer: takes each set of outputs that is complete, and what is said besides.
        on_end: takes the reason why there are no more; None if all went well. Called once.
        on_gone: called once, when no step is at work for this request any more; after `on_end`.
    """

    on_answer: Callable[[tuple[WireTensor, ...], Mapping[str, Parameter]], None]
    on_end: Callable[[Error | None], None]
    on_gone: Callable[[], None]


class _Call:
    """One execution of a step; `told` holds its sequence, where a step before it said so."""

    __slots__ = ("admitted", "position", "scope", "told")

    def __init__(self, scope: TensorScope, position: int, told: list[SequencePosition | None]) -> None:
        self.scope = scope
        self.position = position
        self.told = told
        self.admitted: Admitted | None = None


class EnsembleRun:
    """Runs the steps that a request needs.

    What steps say is taken in one event after the other, never from within another: a step may answer before the
    call that asks it returns, and a chain of such steps must not grow the stack.

    Args:
        step_limit: executions of one step at once.
    """

    def __init__(
        self,
        plan: EnsemblePlan,
        route: Route,
        request: InferRequest,
        infer: Infer,
        clock: Clock,
        hooks: RunHooks,
        step_limit: int,
    ) -> None:
        self.request = request
        self.spent = Spent()
        self._plan = plan
        self._route = route
        self._infer = infer
        self._clock = clock
        self._hooks = hooks
        self._step_limit = step_limit
        self._is_over = False
        self._is_gone = False
        self._is_working = False
        self._events: deque[Callable[[], None]] = deque()
        self._calls: set[_Call] = set()
        self._busy: Counter[int] = Counter()
        self._waiting: dict[int, deque[TensorScope]] = {}
        self._opened = 0
        self._answers: dict[int, tuple[tuple[WireTensor, ...], Mapping[str, Parameter]]] = {}
        self._next_answer = 0

    def begin(self, optional: Iterable[str] = ()) -> None:
        """Start the steps that need nothing but the request's own tensors; `optional` ones may be missing."""
        tensors: dict[str, WireTensor | None] = dict.fromkeys(optional)
        tensors.update({tensor.name: self._inner(tensor) for tensor in self.request.inputs})
        self._work(lambda: self._arrive(TensorScope(0, 0, self._route.uses), tensors))

    def _inner(self, tensor: WireTensor) -> WireTensor:
        """An input as the steps see it; its shape was checked at the entry."""
        reshape = self._plan.reshapes.get(tensor.name)
        return tensor if reshape is None else replace(tensor, shape=reshape.of(tensor.shape))

    def stop(self, reason: Error) -> None:
        """End it now, for a reason that is given to the caller: steps in line leave it, those that run go unheard."""
        if self._is_over:
            return
        self._is_over = True
        self._answers.clear()
        for scopes in self._waiting.values():
            scopes.clear()
        self._hooks.on_end(reason)
        for call in list(self._calls):
            if call.admitted is not None:
                call.admitted.cancel()
        self._tell_if_gone()

    def _work(self, event: Callable[[], None]) -> None:
        self._events.append(event)
        if self._is_working:
            return
        self._is_working = True
        while self._events:
            self._events.popleft()()
        self._is_working = False
        self._end_if_done()

    def _arrive(self, scope: TensorScope, tensors: TensorsByName) -> None:
        """Take new tensors in, and start whatever waited for them."""
        for name, tensor in tensors.items():
            if scope.uses.get(name):
                scope.tensors[name] = tensor
        if scope.number == self._plan.result_scope:
            self._collect(scope)
        for position in dict.fromkeys(step for name in tensors for step in self._route.takers.get(name, ())):
            step = self._plan.steps[position]
            if position not in scope.started and all(map(scope.tensors.__contains__, step.tensors)):
                scope.started.add(position)
                self._start_or_wait(scope, position)

    def _start_or_wait(self, scope: TensorScope, position: int) -> None:
        if self._busy[position] < self._step_limit:
            self._start(scope, position)
            return
        waiting = self._waiting.setdefault(position, deque())
        if len(waiting) >= MAX_WAITING_ANSWERS:
            name = self._plan.steps[position].model_name
            self.stop(
                Overloaded(f"step '{name}' is {MAX_WAITING_ANSWERS} answers behind the decoupled step before it.")
            )
        elif not self._is_over:
            waiting.append(scope)

    def _start(self, scope: TensorScope, position: int) -> None:
        deadline = self.request.deadline
        now = self._clock.now()
        if deadline is not None and deadline <= now:
            self.stop(DeadlineExceeded("Request timeout expired before all steps had run."))
        if self._is_over:
            return
        told = [scope.sequences[name] for name in self._plan.steps[position].tensors if name in scope.sequences]
        call = _Call(scope, position, told[:1])
        self._calls.add(call)
        self._busy[position] += 1
        self._ask(call, self._request(call, self._plan.steps[position], now))

    def _ask(self, call: _Call, request: InferRequest) -> None:
        call.admitted = self._infer(request, lambda answer: self._work(lambda: self._on_settled(call, answer)))
        # What ended the run while the step was asked could not cancel this call yet.
        if self._is_over and call.admitted is not None:
            call.admitted.cancel()

    def _request(self, call: _Call, step: PlannedStep, now: float) -> InferRequest:
        scope = call.scope
        tensors = {name: scope.use(name) for name in step.tensors}
        inputs = [feed.fed(tensors[feed.tensor]) for feed in step.inputs]
        own = self.request
        return InferRequest(
            step.model_name,
            step.model_version,
            tuple(tensor for tensor in inputs if tensor is not None),
            self._route.asked[call.position],
            id=own.id,
            parameters=dict(own.parameters),
            priority=own.priority,
            sequence=call.told[0] if call.told else own.sequence,
            deadline=own.deadline,
            emit=(lambda answer: self._work(lambda: self._on_emitted(call, answer))) if step.is_decoupled else None,
            received_at=now,
            decoded_at=now,
            parent_trace=own.trace,
        )

    def _on_emitted(self, call: _Call, response: InferResponse) -> None:
        """A decoupled step gave one of its answers: what follows it runs once for each."""
        if self._is_over:
            return
        step = self._plan.steps[call.position]
        scope = TensorScope(step.opens, self._opened, self._route.uses)
        self._opened += step.opens == self._plan.result_scope
        self._take(scope, call, response)

    def _take(self, scope: TensorScope, call: _Call, response: InferResponse) -> None:
        """Take the outputs of a step in; what it says of their sequence holds for all that is made of them."""
        step = self._plan.steps[call.position]
        tensors = step.tensors_from(response)
        told = call.told
        if not SEQUENCE_PARAMETERS.isdisjoint(response.parameters):
            current = call.told[0] if call.told else self.request.sequence
            try:
                told = [sequence_of({"sequence_id": current.id if current else 0, **response.parameters})]
            except InvalidInput as problem:
                self.stop(EngineFailed(f"the response of step '{step.model_name}' is wrong: {problem}"))
                return
        if told:
            scope.sequences.update(dict.fromkeys(tensors, told[0]))
        self._arrive(scope, tensors)

    def _on_settled(self, call: _Call, answer: InferResponse | Error) -> None:
        self._calls.discard(call)
        self._busy[call.position] -= 1
        if self._is_over:
            return
        if isinstance(answer, Error):
            self.stop(in_step(self._plan.steps[call.position].model_name, answer))
            return
        self.spent = self.spent.plus(answer.timings)
        step = self._plan.steps[call.position]
        if not step.is_decoupled:
            self._take(call.scope, call, answer)
        elif answer.outputs:
            self._on_emitted(call, answer)
        waiting = self._waiting.get(call.position)
        if waiting:
            self._start(waiting.popleft(), call.position)

    def _collect(self, scope: TensorScope) -> None:
        """Hand the outputs over once all are there, in the order in which what they follow from was given.

        That is once for a scope: every step on the route leads to an output, so then all of them have run.
        """
        names = self._route.result_tensors
        if not names <= scope.tensors.keys():
            return
        tensors = {name: scope.use(name) for name in names}
        try:
            outputs = [result.fed(tensors[result.tensor]) for result in self._route.results]
        except Error as problem:
            self.stop(problem)
            return
        told = next((scope.sequences[name] for name in tensors if name in scope.sequences), None)
        self._answers[scope.order] = tuple(tensor for tensor in outputs if tensor is not None), parameters_of(told)
        while not self._is_over and self._next_answer in self._answers:
            self._next_answer += 1
            self._hooks.on_answer(*self._answers.pop(self._next_answer - 1))

    def _end_if_done(self) -> None:
        if self._calls:
            return
        if not self._is_over:
            self._is_over = True
            is_short = not self._plan.is_decoupled and not self._next_answer
            self._hooks.on_end(EngineFailed("no step can run, and outputs are missing.") if is_short else None)
        self._tell_if_gone()

    def _tell_if_gone(self) -> None:
        if not self._calls and not self._is_gone:
            self._is_gone = True
            self._hooks.on_gone()
