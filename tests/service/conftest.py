"""A served model over a fake engine, on a clock that a test moves; and versions on disk, made by hand."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES, Array, bytes_from_array
from enginehouse.errors import Error
from enginehouse.evidence import GOLDEN_FILE, EngineRecord, write_evidence
from enginehouse.fake_engine import FakeEngine
from enginehouse.hardware import this_hardware
from enginehouse.model_config import config_from_text
from enginehouse.repository import Repository, digest
from enginehouse.tensor import Tensors, TensorSpec
from service.clock import FakeClock, LoopClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.loading.lifecycle import Lifecycle
from service.loading.loader import VersionLoader
from service.loading.repositories import Repositories
from service.metrics.metrics import ServerMetrics
from service.registry import Registry
from service.request import Admitted, InferRequest, InferResponse, Parameter, SequencePosition, WireTensor
from service.served_model import ServedModel
from service.server import InferenceServer, identity
from tests.enginehouse.conftest import make_evidence, make_record

# A busy machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

FP32 = DTYPES["FP32"]
X = TensorSpec("x", FP32, (-1, 2))
Y = TensorSpec("y", FP32, (-1, 2))


def tenfold(feeds: Tensors) -> Tensors:
    return {"y": feeds["x"] * np.float32(10)}


def tensor(array: Array, name: str = "x", dtype: str = "FP32") -> WireTensor:
    return WireTensor(name, DTYPES[dtype], array.shape, bytes_from_array(array, DTYPES[dtype]))


def make_request(
    rows: Sequence[float] = (1.0,), parameters: Mapping[str, Parameter] | None = None, **fields: Any
) -> InferRequest:
    """A request for model `m` with one row of two equal numbers for each given number."""
    array = np.array([[value, value] for value in rows], np.float32).reshape(len(rows), 2)
    return InferRequest("m", "", (tensor(array),), parameters=parameters or {}, **fields)


@dataclass
class Answers:
    """Counts what every caller was told."""

    of: dict[str, list[InferResponse | Error]] = field(default_factory=dict)

    def settle(self, key: str) -> Callable[[InferResponse | Error], None]:
        self.of[key] = []
        return self.of[key].append

    def values(self, key: str) -> list[float]:
        """The first column of the one output that the one answer holds."""
        (answer,) = self.of[key]
        assert isinstance(answer, InferResponse), answer
        (output,) = answer.outputs
        rows: list[list[float]] = np.frombuffer(output.data, np.float32).reshape(output.shape).tolist()
        return [row[0] for row in rows]

    def error(self, key: str) -> Error:
        (answer,) = self.of[key]
        assert isinstance(answer, Error), answer
        return answer


@dataclass
class Bench:
    """One model version over fake engines, and everybody who asked it something."""

    clock: FakeClock
    model: ServedModel
    engines: list[FakeEngine]
    answers: Answers = field(default_factory=Answers)

    def ask(self, key: str, request: InferRequest | None = None) -> Admitted | None:
        return self.model.infer(request or make_request(), self.answers.settle(key))


MakeBench = Callable[..., Bench]
BATCHED = "max_batch_size: 4 dynamic_batching { }"


@pytest.fixture
def bench() -> Any:
    """`bench(config_text, function=tenfold, inputs=(X,), outputs=(Y,), is_inline=True)`; closed at the end."""
    made: list[Bench] = []

    def make(
        text: str = BATCHED,
        function: Callable[[Tensors], Tensors] = tenfold,
        inputs: Sequence[TensorSpec] = (X,),
        outputs: Sequence[TensorSpec] = (Y,),
        is_inline: bool = True,
    ) -> Bench:
        made.append(make_bench(text, function, inputs, outputs, is_inline))
        return made[-1]

    yield make
    for one in made:
        one.model.close()


def make_bench(
    text: str = BATCHED,
    function: Callable[[Tensors], Tensors] = tenfold,
    inputs: Sequence[TensorSpec] = (X,),
    outputs: Sequence[TensorSpec] = (Y,),
    is_inline: bool = True,
) -> Bench:
    config = config_from_text(text, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, inputs, outputs)
    count = sum(group.count for group in config.instance_group)
    engines = [FakeEngine(inputs, outputs, function) for _ in range(count)]
    clock = FakeClock()
    model = serve_version(LoadedVersion(config, 1, Path(), engines, 0.5), Surroundings(clock))
    assert isinstance(model, ServedModel)
    if is_inline:
        for instance in model._instances:
            stay_inline(instance)
    return Bench(clock, model, engines)


def stay_inline(instance: Any) -> None:
    """Let batches run on the test's own thread, however long they take: then the clock decides everything."""
    execute = instance._execute

    def execute_and_stay(batch: Any) -> None:
        execute(batch)
        instance._fast_rows = sys.maxsize

    instance._execute = execute_and_stay
    instance._fast_rows = sys.maxsize


def make_scale_model(factor: float) -> onnx.ModelProto:
    """`y = factor * x` for rows of two numbers: an engine that is told from another by its answers."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        "scale",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [], [factor])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def publish(
    repository: Path,
    version: int = 1,
    name: str = "m",
    chosen: float = 2.0,
    fallback: float | None = 2.0,
    original: float = 2.0,
    built: float = 2.0,
    variants: Sequence[tuple[EngineRecord, float]] = (),
) -> Path:
    """Make a version whose engines and golden samples are scales: they agree where the factors do.

    Args:
        built: what the samples say that the chosen engine gave; the others gave what their factors say.
        variants: further engines, and what they multiply by.
    """
    factors = [(make_record(), chosen), *variants]
    if fallback is not None:
        factors.append((make_record("fallback.onnx", "fallback"), fallback))
    directory = repository / name / str(version)
    directory.mkdir(parents=True)
    x = np.array([[1, 2], [3, 4]], np.float32)
    arrays = {"input/x": x, "original/y": x * np.float32(original)}
    for record, factor in factors:
        onnx.save(make_scale_model(factor), directory / record.file)
        arrays[f"built/{record.file}/y"] = x * np.float32(built if record.role == "chosen" else factor)
    np.savez(directory / GOLDEN_FILE, **arrays)  # type: ignore[arg-type]
    digests = {path.name: digest(path) for path in directory.iterdir()}
    engines = [record for record, _ in factors]
    write_evidence(make_evidence(digests, name, version, engines=engines, hardware=this_hardware()), directory)
    return directory


def publish_mismatch(root: Path, version: int, fallback: float | None = 2.0) -> None:
    """Make a version whose engine gives other answers than the original; its fallback gives the right ones."""
    publish(root, version, chosen=7, fallback=fallback, original=2, built=7)


class House:
    """A server over a repository in a temporary directory, on the loop of the test."""

    def __init__(self, root: Path, is_strict: bool = True, may_load: bool = True) -> None:
        self.root = root
        self.registry = Registry()
        self.metrics = ServerMetrics(self.registry)
        clock = LoopClock(asyncio.get_running_loop())
        self.loader = VersionLoader(Repositories([Repository(root)]), self.metrics.count_golden_failure)
        self.lifecycle = Lifecycle(self.registry, self.loader, Surroundings(clock), 30)
        self.server = InferenceServer(self.registry, self.lifecycle, clock, identity("test"), is_strict, may_load)

    async def factor(self, version: str = "", name: str = "m") -> float:
        """Ask for one row of ones: the answer tells which engine gave it."""
        answer = await self.ask(version, name)
        if isinstance(answer, Error):
            raise answer
        return float(np.frombuffer(answer.outputs[0].data, np.float32)[0])

    def ask(
        self, version: str = "", name: str = "m", sequence: SequencePosition | None = None
    ) -> "asyncio.Future[InferResponse | Error]":
        request = InferRequest(name, version, make_request([1.0]).inputs, sequence=sequence)
        future: asyncio.Future[InferResponse | Error] = asyncio.get_running_loop().create_future()
        self.server.infer(request, future.set_result)
        return future

    def index(self, name: str = "m") -> dict[str, tuple[str, str]]:
        rows = self.server.repository_index(only_ready=False).models
        return {row.version: (row.state, row.reason) for row in rows if row.name == name}

    def metric(self, name: str, version: int) -> int:
        prefix = f'{name}{{model="m",version="{version}"}} '
        (line,) = [line for line in self.metrics.render().splitlines() if line.startswith(prefix)]
        return int(line.removeprefix(prefix))

    def configure(self, text: str, name: str = "m") -> None:
        (self.root / name / "config.pbtxt").write_text(text)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    yield made
    await made.lifecycle.unload_all()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("m-")]
