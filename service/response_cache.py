"""Answers that were given before, for models that ask for it: `response_cache { enable: true }`, as in Triton.

One server has one cache. It holds at most as many bytes as it may, and forgets first what was asked for longest ago.
Everything runs on the thread that owns the queues.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from weakref import WeakKeyDictionary

from enginehouse.errors import Error
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.clock import Clock
from service.ensembles.ensemble_plan import version_text
from service.request import Admitted, InferRequest, InferResponse, Parameter, Settle, Timings, WireTensor
from service.reserved_parameters import take_reserved
from service.served import Served

# What an entry takes besides its tensors, roughly: so that many small ones do not outgrow the limit.
ENTRY_BYTES = 1024

_IMPLEMENTATION = "local"
_NOTHING_DONE = Timings(decode=0.0, queue=0.0, compute_input=0.0, compute_infer=0.0, compute_output=0.0, batch_rows=0)


@dataclass(slots=True, frozen=True)
class _Entry:
    outputs: tuple[WireTensor, ...]
    parameters: Mapping[str, Parameter]
    size_bytes: int


class ResponseCache:
    """Stands between a request and its model.

    An answer is found again for the same inputs (names, types, shapes and bytes), wanted outputs and parameters of the
    same loaded model: after a reload nothing of before is found, of an ensemble also after one of its steps was loaded
    again. Requests of a sequence are never looked up.

    Args:
        capacity_bytes: what all entries together may take.
        resolve: finds what answers for a name and a version, empty for the newest.
    """

    def __init__(self, capacity_bytes: int, clock: Clock, resolve: Callable[[str, str], Served]) -> None:
        self.used_bytes = 0
        self._capacity_bytes = capacity_bytes
        self._clock = clock
        self._resolve = resolve
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._loads: WeakKeyDictionary[Served, int] = WeakKeyDictionary()
        self._next_load = count()

    def __len__(self) -> int:
        return len(self._entries)

    def infer(self, model: Served, request: InferRequest, settle: Settle) -> Admitted | None:
        """Answer from the cache, else by the model; `settle` is called exactly once, perhaps before this returns."""
        begun = time.monotonic()
        try:
            take_reserved(request)
            loads = self._loads_of(model)
        except Error:
            # The model refuses it too, and counts it.
            return model.infer(request, settle)
        if request.sequence is not None:
            return model.infer(request, settle)
        key = _key(loads, request)
        entry = self._entries.get(key)
        looked_up_seconds = time.monotonic() - begun
        if entry is None:
            return model.infer(request, lambda answer: self._keep(model, key, looked_up_seconds, answer, settle))
        self._entries.move_to_end(key)
        now = self._clock.now()
        model.statistics.count_cache_hit(looked_up_seconds, now - (request.received_at or now))
        timings = replace(_NOTHING_DONE, decode=request.decode_seconds, queue=request.unread_seconds)
        settle(InferResponse(model.name, model.version, request.id, entry.outputs, timings, entry.parameters))
        return None

    def _keep(
        self,
        model: Served,
        key: bytes,
        looked_up_seconds: float,
        answer: InferResponse | Error,
        settle: Settle,
    ) -> None:
        if isinstance(answer, InferResponse):
            begun = time.monotonic()
            self._insert(key, answer)
            model.statistics.count_cache_miss(looked_up_seconds + time.monotonic() - begun)
        settle(answer)

    def _insert(self, key: bytes, answer: InferResponse) -> None:
        size_bytes = ENTRY_BYTES + sum(memoryview(tensor.data).nbytes for tensor in answer.outputs)
        if size_bytes > self._capacity_bytes or key in self._entries:
            return
        # A copy: what an answer points into may be the whole of a batch.
        outputs = tuple(
            WireTensor(tensor.name, tensor.dtype, tensor.shape, bytes(tensor.data)) for tensor in answer.outputs
        )
        self._entries[key] = _Entry(outputs, dict(answer.parameters), size_bytes)
        self.used_bytes += size_bytes
        while self.used_bytes > self._capacity_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.used_bytes -= oldest.size_bytes

    def _loads_of(self, model: Served) -> tuple[int, ...]:
        """Which loads an answer comes from: the model's own, and those of all that it is made of."""
        load = self._loads.get(model)
        if load is None:
            load = self._loads[model] = next(self._next_load)
        steps = model.config.ensemble_scheduling.step
        models = [self._resolve(step.model_name, version_text(step)) for step in steps]
        return (load, *(number for step in models for number in self._loads_of(step)))


def _key(loads: tuple[int, ...], request: InferRequest) -> bytes:
    """A digest in which nothing can pass for something else: each part says how long what follows it is."""
    parameters = sorted(request.parameters.items(), key=lambda item: item[0])
    digest = hashlib.sha256(repr((loads, request.outputs, parameters)).encode(errors="surrogatepass"))
    for tensor in sorted(request.inputs, key=lambda tensor: tensor.name):
        data = memoryview(tensor.data)
        digest.update(repr((tensor.name, tensor.dtype.name, tensor.shape, data.nbytes)).encode(errors="surrogatepass"))
        digest.update(data)
    return digest.digest()


def may_cache(config: ModelConfig) -> bool:
    """Whether a model's answers may be kept: it asks for it, and answers each request by itself and once."""
    return (
        config.response_cache.enable
        and not config.HasField("sequence_batching")
        and not config.model_transaction_policy.decoupled
    )


def capacity_from_flags(cache_config: Sequence[str], response_cache_byte_size: int | None) -> int:
    """The size that the flags ask for, 0 for no cache.

    Args:
        cache_config: `local,size=BYTES`, in one piece or split at its comma.
        response_cache_byte_size: the older flag for the same; None if it was not given.

    Raises:
        ValueError: both flags, another implementation than `local`, or no whole number above 0.
    """
    if not cache_config:
        return response_cache_byte_size or 0
    if response_cache_byte_size is not None:
        raise ValueError("--response-cache-byte-size and --cache-config say the same; give one of them.")
    name, *settings = ",".join(cache_config).split(",")
    key, _, value = (settings or [""])[0].partition("=")
    is_size = key == "size" and value.isascii() and value.isdigit() and int(value) > 0
    if name != _IMPLEMENTATION or len(settings) != 1 or not is_size:
        raise ValueError(
            f"--cache-config is '{','.join(cache_config)[:100]}'; expected '{_IMPLEMENTATION},size=BYTES'. "
            "The cache in this process is the only one there is."
        )
    return int(value)
