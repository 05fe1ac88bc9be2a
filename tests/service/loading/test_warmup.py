"""Samples of the configuration run on every engine before the version answers, and a bad one fails the load."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.dtype import DTYPES
from enginehouse.errors import EngineFailed, InvalidInput, NotSupported
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from enginehouse.tensor import Tensors, TensorSpec
from service.loaded import LoadedVersion
from service.loading.warmup import warm_up
from tests.service.conftest import House, X, Y, publish, tenfold

ZERO = "inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } }"


def load(
    tmp_path: Path, text: str, inputs: tuple[TensorSpec, ...] = (X,), outputs: tuple[TensorSpec, ...] = (Y,)
) -> list[FakeEngine]:
    """Warm a model up; its engines tell what they were fed."""
    config = config_from_text(text, "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, inputs, outputs)
    engines = [FakeEngine(inputs, outputs, lambda feeds: feeds) for _ in range(2)]
    (tmp_path / "m" / "1").mkdir(parents=True, exist_ok=True)
    warm_up(LoadedVersion(config, 1, tmp_path / "m" / "1", engines, 0.0))
    return engines


def fed(engines: list[FakeEngine]) -> list[Tensors]:
    assert len({len(engine.runs) for engine in engines}) == 1
    return engines[0].runs


def test_every_engine_runs_every_sample_as_often_as_it_says(tmp_path: Path) -> None:
    text = f"max_batch_size: 4 model_warmup [ {{ name: 'a' batch_size: 3 count: 2 {ZERO} }}, {{ name: 'b' {ZERO} }} ]"
    runs = fed(load(tmp_path, text))
    assert [run["x"].tolist() for run in runs] == [[[0, 0]] * 3, [[0, 0]] * 3, [[0, 0]]]


def test_a_model_without_a_batch_dimension_is_fed_as_it_is(tmp_path: Path) -> None:
    spec, out = TensorSpec("x", DTYPES["FP32"], (2,)), TensorSpec("y", DTYPES["FP32"], (2,))
    (run,) = fed(load(tmp_path, f"model_warmup {{ name: 'a' batch_size: 1 {ZERO} }}", (spec,), (out,)))
    assert run["x"].tolist() == [0, 0]


def test_a_file_holds_one_clients_tensor(tmp_path: Path) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "raw").write_bytes(np.array([3, 4], np.float32).tobytes())
    text = ZERO.replace("zero_data: true", "input_data_file: 'raw'")
    (run,) = fed(load(tmp_path, f"max_batch_size: 4 model_warmup {{ name: 'a' batch_size: 2 {text} }}"))
    assert run["x"].tolist() == [[3, 4], [3, 4]]


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "BYTES"])
def test_random_data_stays_between_0_and_1(tmp_path: Path, dtype: str) -> None:
    word = DTYPES[dtype].config_name
    spec, out = TensorSpec("x", DTYPES[dtype], (-1, 50)), TensorSpec("y", DTYPES[dtype], (-1, 50))
    text = f"inputs {{ key: 'x' value {{ data_type: {word} dims: [ 50 ] random_data: true }} }}"
    (run,) = fed(load(tmp_path, f"max_batch_size: 4 model_warmup {{ name: 'a' {text} }}", (spec,), (out,)))
    values = run["x"].astype(np.float64)
    assert run["x"].dtype == DTYPES[dtype].numpy
    assert values.min() >= 0
    assert values.max() <= 1
    assert len(np.unique(values)) > 1


def test_texts_are_empty_random_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "raw").write_bytes(struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0))
    spec, out = TensorSpec("x", DTYPES["BYTES"], (-1, 2)), TensorSpec("y", DTYPES["BYTES"], (-1, 2))
    samples = ", ".join(
        f"{{ name: 'a' inputs {{ key: 'x' value {{ data_type: TYPE_STRING dims: [ 2 ] {data} }} }} }}"
        for data in ("zero_data: true", "random_data: true", "input_data_file: 'raw'")
    )
    empty, random, read = fed(load(tmp_path, f"max_batch_size: 4 model_warmup [ {samples} ]", (spec,), (out,)))
    assert empty["x"].tolist() == [[b"", b""]]
    assert [len(item) for item in random["x"].ravel()] == [8, 8]
    assert read["x"].tolist() == [[b"abc", b""]]


def test_a_reshaped_input_reaches_the_engine_in_its_shape(tmp_path: Path) -> None:
    spec, out = TensorSpec("x", DTYPES["FP32"], (-1, 1, 2)), TensorSpec("y", DTYPES["FP32"], (-1, 2))
    text = (
        "max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: [ 2 ] reshape { shape: [ 1, 2 ] } } "
        f"model_warmup {{ name: 'a' batch_size: 3 {ZERO} }}"
    )
    (run,) = fed(load(tmp_path, text, (spec,), (out,)))
    assert run["x"].shape == (3, 1, 2)


def test_a_sequence_is_warmed_up_with_the_controls_that_the_sample_gives(tmp_path: Path) -> None:
    inputs = (X, TensorSpec("START", DTYPES["INT32"], (-1, 1)), TensorSpec("READY", DTYPES["INT32"], (-1, 1)))
    controls = " ".join(
        f"control_input {{ name: '{name}' control {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} }}"
        for name in ("START", "READY")
    )
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "one").write_bytes(struct.pack("<i", 1))
    given = "inputs { key: 'READY' value { data_type: TYPE_INT32 dims: [ 1 ] input_data_file: 'one' } }"
    sample = f"model_warmup {{ name: 'a' batch_size: 2 {ZERO} {given} }}"
    text = f"max_batch_size: 4 sequence_batching {{ {controls} }} {sample}"
    (run,) = fed(load(tmp_path, text, inputs))
    assert {name: array.tolist() for name, array in run.items()} == {
        "x": [[0, 0], [0, 0]],
        "START": [[0], [0]],
        "READY": [[1], [1]],
    }


def other(**changes: str) -> str:
    text = ZERO
    for old, new in changes.items():
        text = text.replace({"name": "'x'", "type": "TYPE_FP32", "dims": "[ 2 ]", "data": "zero_data: true"}[old], new)
    return f"model_warmup {{ name: 'a' {text} }}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"model_warmup {{ name: 'a' batch_size: 5 {ZERO} }}", "batch_size is 5; max_batch_size is 4"),
        ("model_warmup { name: 'a' }", "missing \\['x'\\]"),
        (other(name="'z'"), "unexpected inference input 'z'"),
        (other(type="TYPE_INT8"), "data-type is 'INT8'"),
        (other(type="TYPE_INVALID"), "unknown data_type"),
        (other(dims="[ 3 ]"), "unexpected shape for input 'x'"),
        (other(dims="[ -1 ]"), "a sample needs the size of each dimension"),
        (other(data=""), "has no data"),
        (other(data="input_data_file: 'nothing'"), "warmup/nothing cannot be read: No such file"),
        (other(data="input_data_file: '../1/model.onnx'"), "is no path inside the folder"),
    ],
)
def test_a_sample_that_the_model_cannot_take_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"model_warmup 'a': .*{message}"):
        load(tmp_path, f"max_batch_size: 4 {text}")


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m" / "warmup").mkdir(parents=True)
    (tmp_path / "m" / "warmup" / "raw").write_bytes(b"123")
    with pytest.raises(InvalidInput, match="model_warmup 'a': 3 bytes given, 8 expected"):
        load(tmp_path, "max_batch_size: 4 " + other(data="input_data_file: 'raw'"))


def test_an_engine_that_fails_on_a_sample_says_which(tmp_path: Path) -> None:
    config = config_from_text(f"max_batch_size: 4 {other()}", "m")
    complete_platform(config, ["model.onnx"])
    complete_config(config, (X,), (Y,))
    engine = FakeEngine((X,), (Y,), tenfold)
    engine.failures.append(EngineFailed("out of something"))
    with pytest.raises(EngineFailed, match="model_warmup 'a': out of something"):
        warm_up(LoadedVersion(config, 1, tmp_path, [engine], 0.0))
    nothing_runs: Any = object()
    with pytest.raises(NotSupported, match="takes requests, not tensors"):
        warm_up(LoadedVersion(config, 1, tmp_path, [nothing_runs], 0.0))


async def test_a_version_is_warm_before_it_is_ready_and_one_that_cannot_be_does_not_serve(house: House) -> None:
    publish(house.root)
    house.configure(f"max_batch_size: 4 model_warmup {{ name: 'a' count: 3 {ZERO} }}")
    await house.server.load("m")
    assert await house.factor() == 2
    assert house.server.statistics("m", "").model_stats[0].inference_count == 1, "a warm-up is nobody's request"
    house.configure(f"max_batch_size: 4 {other(dims='[ 3 ]')}")
    with pytest.raises(InvalidInput, match="failed to load 'm': version 1: model_warmup 'a': unexpected shape"):
        await house.server.load("m")
    assert await house.factor() == 2
