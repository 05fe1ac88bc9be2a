"""Traces: which requests, how many, and what each of them says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.errors import EngineFailed, Error, InvalidInput
from service.request import InferRequest, InferResponse, Settle, Timings
from service.tracing.trace import MAX_ELEMENTS, Tracer
from service.tracing.trace_settings import TraceSettings
from tests.service.conftest import tensor

TIMINGS = Timings(decode=0.5, queue=1.0, compute_input=0.25, compute_infer=2.0, compute_output=0.125, batch_rows=1)
NAMES = [
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
]

MakeTracer = Callable[..., "Bench"]


class Bench:
    """A tracer on a clock that stands still, and its file."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.now = 10.0
        self.told: list[InferResponse | Error] = []
        self.tracer = Tracer(TraceSettings(str(path), **settings), lambda: self.now)

    def ask(self, request_id: str = "", model: str = "m", result: Error | None = None, values: int = 2) -> None:
        wire = tensor(np.arange(values, dtype=np.float32))
        request = InferRequest(model, "", (wire,), id=request_id, received_at=9.5)
        settle = self.tracer.follow(request, self.told.append) if self.tracer.is_on else self.told.append
        self.now += 5
        settle(result or InferResponse(model, "3", request_id, (wire,), TIMINGS))
        self.now -= 5

    def entries(self, path: Path | None = None) -> list[dict[str, Any]]:
        """What is written by now."""
        self.tracer.close()
        path = path or self.path
        entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return entries

    def ids(self) -> list[str]:
        return [entry["request_id"] for entry in self.entries() if "request_id" in entry]


@pytest.fixture
def bench(tmp_path: Path) -> MakeTracer:
    return lambda **settings: Bench(tmp_path / "t.json", **settings)


ON = {"trace_level": ("TIMESTAMPS",), "trace_rate": 1}


def test_a_trace_tells_when_each_step_happened(bench: MakeTracer) -> None:
    one = bench(**ON)
    one.ask("a")
    head, *stamps = one.entries()
    assert head == {"id": 1, "model_name": "m", "model_version": 3, "request_id": "a"}
    assert all(entry["id"] == 1 for entry in stamps)
    at = {entry["timestamps"][0]["name"]: entry["timestamps"][0]["ns"] / 1e9 for entry in stamps}
    assert list(at) == NAMES
    assert list(at.values()) == [9.5, 10, 11, 11.25, 13.25, 13.375, 15]


def test_a_request_that_failed_has_no_compute(bench: MakeTracer) -> None:
    one = bench(**ON)
    one.ask("a", result=EngineFailed("broken"))
    names = [entry["timestamps"][0]["name"] for entry in one.entries() if "timestamps" in entry]
    assert names == ["REQUEST_START", "QUEUE_START", "REQUEST_END"]
    assert isinstance(one.told[0], EngineFailed)


def test_tensors_are_told_up_to_a_limit(bench: MakeTracer) -> None:
    one = bench(trace_level=("TENSORS",), trace_rate=1)
    one.ask()
    one.ask(values=MAX_ELEMENTS + 5)
    small, large = (
        [entry for entry in one.entries() if "tensor" in entry and entry["id"] == number] for number in (1, 2)
    )
    told = {"name": "x", "data": "0.0,1.0", "shape": "2", "dtype": "FP32"}
    assert small == [
        {"id": 1, "activity": "TENSOR_QUEUE_INPUT", "tensor": told},
        {"id": 1, "activity": "TENSOR_BACKEND_OUTPUT", "tensor": told},
    ]
    assert large[0]["tensor"]["shape"] == str(MAX_ELEMENTS + 5)
    assert len(large[0]["tensor"]["data"].split(",")) == MAX_ELEMENTS


def test_every_answer_reaches_its_caller_traced_or_not(bench: MakeTracer) -> None:
    one = bench(trace_level=("TIMESTAMPS",), trace_rate=3, trace_count=1)
    for number in range(7):
        one.ask(str(number))
    assert [answer.id for answer in one.told if isinstance(answer, InferResponse)] == list("0123456")
    assert one.ids() == ["2"]


def test_one_of_so_many_requests_is_traced(bench: MakeTracer) -> None:
    one = bench(trace_level=("TIMESTAMPS",), trace_rate=3)
    for number in range(9):
        one.ask(str(number))
    assert one.ids() == ["2", "5", "8"]


def test_so_many_traces_are_made_and_no_more(bench: MakeTracer) -> None:
    one = bench(**ON, trace_count=2)
    for number in range(5):
        one.ask(str(number))
    assert one.tracer.settings().trace_count == 0
    assert one.ids() == ["0", "1"]
    one.tracer.update("", {"trace_count": ["1"]})
    one.ask("later")
    assert one.ids() == ["0", "1", "later"]


def test_traces_are_written_in_files_of_so_many(bench: MakeTracer, tmp_path: Path) -> None:
    one = bench(**ON, log_frequency=2)
    for number in range(3):
        one.ask(str(number))
    one.entries()
    heads = {
        path.name: [e["request_id"] for e in one.entries(path) if "request_id" in e] for path in tmp_path.iterdir()
    }
    assert heads == {"t.json.0": ["0", "1"], "t.json.1": ["2"]}


def test_what_was_traced_is_written_when_the_count_is_reached(bench: MakeTracer) -> None:
    one = bench(**ON, trace_count=1)
    one.ask("a")
    one.tracer._file.close()
    assert json.loads(one.path.read_text())[0]["request_id"] == "a"


def test_nothing_is_traced_until_it_is_asked_for(bench: MakeTracer) -> None:
    one = bench()
    states = [one.tracer.is_on]
    one.ask("a")
    one.tracer.update("", {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]})
    states.append(one.tracer.is_on)
    one.ask("b")
    one.tracer.update("", {"trace_level": ["OFF"]})
    states.append(one.tracer.is_on)
    one.ask("c")
    assert states == [False, True, False]
    assert one.ids() == ["b"]


def test_a_model_has_settings_of_its_own_on_top_of_the_global_ones(bench: MakeTracer) -> None:
    one = bench(trace_rate=7)
    one.tracer.update("m", {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]})
    one.ask("a")
    one.ask("b", model="other")
    assert one.ids() == ["a"]
    one.tracer.update("", {"log_frequency": ["3"], "trace_rate": ["9"]})
    own, other = one.tracer.settings("m"), one.tracer.settings("other")
    assert (own.trace_rate, own.log_frequency, own.trace_level) == (1, 3, ("TIMESTAMPS",))
    assert (other.trace_rate, other.log_frequency, other.trace_level) == (9, 3, ())
    one.tracer.update("m", {"trace_rate": None, "trace_level": []})
    assert one.tracer.settings("m") == other
    one.tracer.update("", {"trace_rate": None, "log_frequency": None})
    assert one.tracer.settings() == TraceSettings(str(one.path), trace_rate=7)


def test_a_change_elsewhere_leaves_the_counts_of_a_model(bench: MakeTracer) -> None:
    one = bench()
    one.tracer.update("m", {"trace_level": ["TIMESTAMPS"], "trace_rate": ["2"], "trace_count": ["5"]})
    one.ask("a")
    one.tracer.update("other", {"trace_level": ["TIMESTAMPS"]})
    one.ask("b")
    assert one.ids() == ["b"]
    assert one.tracer.settings("m").trace_count == 4


def test_a_bad_change_changes_nothing(bench: MakeTracer) -> None:
    one = bench(**ON)
    for changes in ({"trace_level": ["OFF"], "trace_rate": ["0"]}, {"trace_level": ["OFF"], "other": ["1"]}):
        with pytest.raises(InvalidInput):
            one.tracer.update("", changes)
    assert one.tracer.settings().trace_level == ("TIMESTAMPS",)


class Family:
    """A request whose model asks others, each when a test says so."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def begin(self, model: str, parent: InferRequest | None = None) -> tuple[InferRequest, Settle]:
        request = InferRequest(model, "", (), parent_trace=None if parent is None else parent.trace)
        return request, self._bench.tracer.follow(request, self._bench.told.append)

    def heads(self) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in entry.items() if name != "model_version"}
            for entry in self._bench.entries()
            if "model_name" in entry
        ]


def end(settle: Settle, model: str = "m") -> None:
    settle(InferResponse(model, "1", "", (), TIMINGS))


def test_what_a_traced_request_asks_of_other_models_is_traced_and_says_for_whom(bench: MakeTracer) -> None:
    one = bench(trace_level=("TIMESTAMPS",), trace_rate=2, trace_count=1)
    family = Family(one)
    for _ in range(2):
        root, settle_root = family.begin("ensemble")
        inner, settle_inner = family.begin("inner", root)
        _, settle_leaf = family.begin("leaf", inner)
        settles = [settle_leaf, settle_inner, settle_root, family.begin("other", root)[1]]
        for settle in settles:
            end(settle)
    assert family.heads() == [
        {"id": 1, "model_name": "ensemble"},
        {"id": 2, "model_name": "inner", "parent_id": 1},
        {"id": 3, "model_name": "leaf", "parent_id": 2},
        {"id": 4, "model_name": "other", "parent_id": 1},
    ]
    assert one.tracer._open == {}


def test_a_trace_is_written_whole_when_the_last_of_what_it_asked_has_ended(bench: MakeTracer, tmp_path: Path) -> None:
    one = bench(**ON, log_frequency=1)
    family = Family(one)
    root, settle_root = family.begin("ensemble")
    _, settle_step = family.begin("step", root)
    end(settle_root)
    one.ask("meanwhile")
    end(settle_step)
    one.entries()
    names = {
        path.name: [entry["model_name"] for entry in one.entries(path) if "model_name" in entry]
        for path in tmp_path.iterdir()
    }
    assert names == {"t.json.0": ["m"], "t.json.1": ["ensemble", "step"]}


def test_what_is_asked_after_the_trace_has_ended_is_not_traced(bench: MakeTracer) -> None:
    one = bench(**ON)
    family = Family(one)
    root, settle_root = family.begin("m")
    end(settle_root)
    end(family.begin("late", root)[1])
    assert family.heads() == [{"id": 1, "model_name": "m"}]


def test_without_a_file_nothing_can_be_traced() -> None:
    tracer = Tracer(TraceSettings(), lambda: 0.0)
    with pytest.raises(InvalidInput, match="trace file name is not given"):
        tracer.update("m", {"trace_level": ["TIMESTAMPS"]})
    tracer.close()
