from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from enginehouse.errors import EngineFailed, InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig
from enginehouse.tensor import Tensors, TensorSpec
from service.request import InferRequest, InferResponse
from service.response_cache import ENTRY_BYTES, ResponseCache, capacity_from_flags, may_cache
from service.served import Served
from service.served_model import ServedModel
from tests.service.conftest import BATCHED, Answers, Bench, MakeBench, X, Y, make_request, tenfold, tensor

ROW_BYTES = 8


class CachedBench:
    """A model behind a cache; what is asked is answered at once."""

    def __init__(self, bench: Bench, capacity_bytes: int = 1 << 20) -> None:
        self.bench = bench
        self.models: dict[str, Served] = {"m": bench.model}
        self.cache = ResponseCache(capacity_bytes, bench.clock, lambda name, _: self.models[name])
        self.answers = Answers()
        self._number = 0

    def ask(self, request: InferRequest | None = None) -> str:
        self._number += 1
        key = str(self._number)
        self.cache.infer(self.bench.model, request or make_request(), self.answers.settle(key))
        self.bench.clock.run_ready()
        return key

    def is_hit(self, request: InferRequest | None = None) -> bool:
        """Whether the model did not have to run for an answer."""
        before = self.bench.model.statistics.execution_count
        (answer,) = self.answers.of[self.ask(request)]
        assert isinstance(answer, InferResponse), answer
        return self.bench.model.statistics.execution_count == before


@pytest.fixture
def cached(bench: MakeBench) -> CachedBench:
    return CachedBench(bench())


def test_the_same_inputs_are_answered_again_without_the_model(cached: CachedBench) -> None:
    assert not cached.is_hit(make_request([3.0]))
    again = cached.ask(make_request([3.0], id="second"))
    assert cached.answers.values(again) == [30.0]
    (answer,) = cached.answers.of[again]
    assert isinstance(answer, InferResponse)
    assert (answer.id, answer.model_name, answer.model_version) == ("second", "m", "1")
    assert answer.timings.batch_rows == 0
    assert cached.bench.model.statistics.execution_count == 1


def numbered(value: float, **fields: Any) -> InferRequest:
    return make_request([value], **fields)


@pytest.mark.parametrize(
    "other",
    [
        numbered(2.0),
        make_request([1.0, 1.0]),
        numbered(1.0, outputs=("y",)),
        numbered(1.0, parameters={"own": 1}),
        numbered(1.0, parameters={"own": True}),
        numbered(1.0, parameters={"own": "1"}),
        numbered(1.0, parameters={"other": 1}),
    ],
)
def test_whatever_the_answer_may_depend_on_makes_another_entry(cached: CachedBench, other: InferRequest) -> None:
    cached.ask(numbered(1.0))
    cached.ask(numbered(1.0, parameters={"own": 1.0}))
    assert not cached.is_hit(other)
    assert cached.is_hit(numbered(1.0))


def test_how_urgent_a_request_is_makes_no_difference(cached: CachedBench) -> None:
    cached.ask()
    assert cached.is_hit(numbered(1.0, parameters={"priority": 1, "timeout": 5_000_000}, deadline=9.0))


def test_the_order_of_the_inputs_makes_no_difference_and_their_names_do(bench: MakeBench) -> None:
    def subtract(feeds: Tensors) -> Tensors:
        return {"y": feeds["x"] - feeds["z"]}

    z = TensorSpec("z", X.dtype, X.shape)
    cached = CachedBench(bench(BATCHED, subtract, (X, z), (Y,)))
    one, two = (np.full((1, 2), value, np.float32) for value in (1, 2))
    assert not cached.is_hit(InferRequest("m", "", (tensor(one, "x"), tensor(two, "z"))))
    assert cached.is_hit(InferRequest("m", "", (tensor(two, "z"), tensor(one, "x"))))
    swapped = cached.ask(InferRequest("m", "", (tensor(two, "x"), tensor(one, "z"))))
    assert cached.answers.values(swapped) == [1.0]


def test_the_same_bytes_under_another_name_type_or_shape_are_another_request(bench: MakeBench) -> None:
    cached = CachedBench(
        bench(inputs=(TensorSpec("x", X.dtype, (-1, -1)),), outputs=(TensorSpec("y", X.dtype, (-1, -1)),))
    )
    array = np.arange(4, dtype=np.float32)
    cached.ask(InferRequest("m", "", (tensor(array.reshape(1, 4)),)))
    assert not cached.is_hit(InferRequest("m", "", (tensor(array.reshape(2, 2)),)))
    for other in (tensor(array.reshape(1, 4), "w"), tensor(array.view(np.int32).reshape(1, 4), dtype="INT32")):
        assert isinstance(cached.answers.error(cached.ask(InferRequest("m", "", (other,)))), InvalidInput)


def test_a_sequence_is_never_answered_from_the_cache(cached: CachedBench) -> None:
    cached.ask()
    assert not cached.is_hit(numbered(1.0, parameters={"sequence_id": 7}))
    assert not cached.is_hit(numbered(1.0, parameters={"sequence_id": 7}))
    assert len(cached.cache) == 1


def test_after_a_reload_nothing_of_before_is_found(cached: CachedBench, bench: MakeBench) -> None:
    cached.ask()
    reloaded = bench(BATCHED, lambda feeds: {"y": feeds["x"] * np.float32(7)})
    answers = Answers()
    cached.cache.infer(reloaded.model, make_request(), answers.settle("new"))
    reloaded.clock.run_ready()
    assert answers.values("new") == [7.0]


def test_after_a_reload_of_a_step_nothing_of_before_is_found_for_what_is_made_of_it(
    cached: CachedBench, bench: MakeBench
) -> None:
    for name, made_of in (("e", "m"), ("outer", "e")):
        model = bench().model
        model.config.ensemble_scheduling.step.add(model_name=made_of, model_version=-1)
        cached.models[name] = model

    def is_hit() -> bool:
        before = len(cached.cache)
        answers = Answers()
        cached.cache.infer(cached.models["outer"], make_request(), answers.settle("one"))
        outer = cached.models["outer"]
        assert isinstance(outer, ServedModel)
        outer._clock.run_ready()  # type: ignore[attr-defined]
        assert answers.values("one") == [10.0]
        return len(cached.cache) == before

    assert [is_hit(), is_hit()] == [False, True]
    cached.models["m"] = bench().model
    assert [is_hit(), is_hit()] == [False, True]


def test_errors_are_not_kept(bench: MakeBench) -> None:
    broken = [True]

    def function(feeds: Tensors) -> Tensors:
        if broken:
            raise RuntimeError("burned out")
        return tenfold(feeds)

    cached = CachedBench(bench(BATCHED, function))
    assert isinstance(cached.answers.error(cached.ask()), EngineFailed)
    broken.clear()
    assert cached.answers.values(cached.ask()) == [10.0]


def test_a_request_that_makes_no_sense_is_refused_by_its_model(cached: CachedBench) -> None:
    refused = cached.ask(numbered(1.0, parameters={"priority": -1}))
    assert isinstance(cached.answers.error(refused), InvalidInput)
    assert cached.bench.model.statistics.failures["OTHER"] == 1


def test_what_was_asked_for_longest_ago_makes_room(bench: MakeBench) -> None:
    cached = CachedBench(bench(), 2 * (ENTRY_BYTES + ROW_BYTES))
    for value in (1.0, 2.0):
        cached.ask(numbered(value))
    assert cached.is_hit(numbered(1.0))
    cached.ask(numbered(3.0))
    assert cached.cache.used_bytes == 2 * (ENTRY_BYTES + ROW_BYTES)
    assert cached.is_hit(numbered(1.0))
    assert cached.is_hit(numbered(3.0))
    assert not cached.is_hit(numbered(2.0))


def test_an_answer_that_is_larger_than_the_cache_is_not_kept(bench: MakeBench) -> None:
    cached = CachedBench(bench(), ENTRY_BYTES + ROW_BYTES)
    cached.ask(make_request([1.0, 2.0]))
    assert (len(cached.cache), cached.cache.used_bytes) == (0, 0)
    cached.ask(make_request([1.0]))
    assert len(cached.cache) == 1


def test_two_that_miss_together_leave_one_entry(cached: CachedBench) -> None:
    for key in ("one", "two"):
        cached.cache.infer(cached.bench.model, make_request(), cached.answers.settle(key))
    cached.bench.clock.run_ready()
    assert cached.answers.values("one") == cached.answers.values("two") == [10.0]
    assert cached.cache.used_bytes == ENTRY_BYTES + ROW_BYTES


def test_an_entry_does_not_keep_the_batch_that_it_came_from(cached: CachedBench) -> None:
    for value in (1.0, 2.0):
        cached.cache.infer(cached.bench.model, numbered(value), cached.answers.settle(str(value)))
    cached.bench.clock.run_ready()
    assert cached.bench.model.statistics.execution_count == 1
    (entry, _) = cached.cache._entries.values()
    assert type(entry.outputs[0].data) is bytes


def test_hits_and_misses_are_counted(cached: CachedBench) -> None:
    cached.ask()
    for _ in range(2):
        cached.ask()
    counted = cached.bench.model.statistics
    assert (counted.cache_hit.count, counted.cache_miss.count) == (2, 1)
    assert counted.cache_hit.seconds > 0
    assert (counted.success.count, counted.queue.count) == (3, 3)
    assert (counted.inference_count, counted.execution_count, counted.compute_infer.count) == (1, 1, 1)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", False),
        ("response_cache { enable: true }", True),
        ("response_cache { enable: true } sequence_batching { }", False),
        ("response_cache { enable: true } model_transaction_policy { decoupled: true }", False),
    ],
)
def test_only_models_that_ask_for_it_and_answer_once_are_cached(more: str, expected: bool) -> None:
    assert may_cache(text_format.Parse(more, ModelConfig())) is expected


@pytest.mark.parametrize(
    ("cache_config", "byte_size", "capacity"),
    [
        ((), None, 0),
        ((), 4096, 4096),
        ((), 0, 0),
        (("local,size=1048576",), None, 1048576),
        (("local", "size=1048576"), None, 1048576),
    ],
)
def test_the_size_is_told_by_either_flag(cache_config: tuple[str, ...], byte_size: int | None, capacity: int) -> None:
    assert capacity_from_flags(cache_config, byte_size) == capacity


@pytest.mark.parametrize(
    ("cache_config", "byte_size", "reason"),
    [
        (("local,size=1",), 1, "give one of them"),
        (("redis,host=here",), None, "expected 'local,size=BYTES'"),
        (("local",), None, "expected 'local,size=BYTES'"),
        (("local,size=many",), None, "expected 'local,size=BYTES'"),
        (("local,size=0",), None, "expected 'local,size=BYTES'"),
        (("local,size=1,size=2",), None, "expected 'local,size=BYTES'"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    cache_config: tuple[str, ...], byte_size: int | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        capacity_from_flags(cache_config, byte_size)
