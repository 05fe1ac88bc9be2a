"""From a version on disk to engines that proved themselves here, or to a reason why not."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from enginehouse.errors import CorruptVersion, EngineFailed, Error, InvalidInput, NotFound, NotSupported, VerifyFailed
from enginehouse.evidence import GOLDEN_FILE, EngineRecord, TargetRecord, read_evidence, write_evidence
from enginehouse.hardware import this_hardware, threads_per_instance
from enginehouse.model_config import config_from_text
from enginehouse.onnxruntime_engine import CPU_PROVIDER, CUDA_PROVIDER
from enginehouse.open_engine import open_engine
from enginehouse.openvino_engine import OpenVinoEngine
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup
from enginehouse.repository import Repository
from service.loaded import LoadedVersion
from service.loading.loader import VersionLoader
from service.loading.repositories import Repositories
from tests.enginehouse.conftest import make_record
from tests.service.conftest import make_scale_model, publish


class Loading:
    """A loader over a repository, and what it reported."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.golden_failures: list[tuple[str, int]] = []
        self.loader = VersionLoader(
            Repositories([Repository(root)]), lambda *failed: self.golden_failures.append(failed)
        )

    def load(self, text: str = "", version: int = 1) -> LoadedVersion:
        return self.loader.load(config_from_text(text, "m"), version)


@pytest.fixture
def loading(tmp_path: Path) -> Loading:
    return Loading(tmp_path)


def factor(loaded: LoadedVersion, instance: int = 0) -> float:
    return float(loaded.engines[instance].run({"x": np.ones((1, 2), np.float32)})["y"][0, 0])


def test_the_chosen_engine_serves_with_a_complete_configuration(loading: Loading) -> None:
    publish(loading.root)
    loaded = loading.load()
    assert factor(loaded) == 2
    assert (loaded.config.max_batch_size, loaded.config.platform) == (4, "onnxruntime_onnx")
    assert (loaded.version, loaded.degraded) == (1, "")
    assert loaded.load_seconds > 0


def test_the_given_configuration_is_not_changed(loading: Loading) -> None:
    publish(loading.root)
    config = ModelConfig(name="m")
    loading.loader.load(config, 1)
    assert config == ModelConfig(name="m")


def test_each_instance_has_an_engine_of_its_own(loading: Loading) -> None:
    publish(loading.root)
    loaded = loading.load("instance_group [ { count: 2 }, { kind: KIND_CPU } ]")
    assert len({id(engine) for engine in loaded.engines}) == 3
    assert [factor(loaded, at) for at in range(3)] == [2, 2, 2]


def test_a_foreign_version_is_served_without_proof(loading: Loading) -> None:
    directory = loading.root / "m" / "1"
    directory.mkdir(parents=True)
    onnx.save(make_scale_model(5), directory / "other.onnx")
    (directory / "model.onnx").write_bytes(b"not this one")
    assert factor(loading.load("default_model_filename: 'other.onnx'")) == 5
    with pytest.raises(EngineFailed):
        loading.load()
    with pytest.raises(NotSupported, match="has no evidence, and so no fallback"):
        loading.loader.load_fallback(ModelConfig(name="m"), 1, "because")


@pytest.mark.parametrize("name", ["model.onnx", "fallback.onnx", GOLDEN_FILE])
def test_a_version_whose_files_changed_does_not_serve(loading: Loading, name: str) -> None:
    directory = publish(loading.root)
    with (directory / name).open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptVersion, match=f"{name} has SHA-256"):
        loading.load()
    assert loading.golden_failures == []


@pytest.mark.parametrize(
    ("factors", "whose"),
    [((3.0, 2.0), "the original model"), ((2.0, 2.001), "this engine where it was built")],
)
def test_an_engine_that_answers_otherwise_does_not_serve_and_is_counted(
    loading: Loading, factors: tuple[float, float], whose: str
) -> None:
    publish(loading.root, original=factors[0], built=factors[1])
    with pytest.raises(VerifyFailed, match=whose):
        loading.load()
    assert loading.golden_failures == [("m", 1)]


def test_the_fallback_is_held_to_the_original_only_and_says_why_it_serves(loading: Loading) -> None:
    publish(loading.root, chosen=9, built=9, fallback=2)
    loaded = loading.loader.load_fallback(ModelConfig(name="m"), 1, "the engine lied")
    assert factor(loaded) == 2
    assert loaded.degraded == "fallback.onnx serves because: the engine lied"
    publish(loading.root, 2, fallback=3)
    with pytest.raises(VerifyFailed, match="the original model"):
        loading.loader.load_fallback(ModelConfig(name="m"), 2, "")


def test_a_fallback_serves_beside_a_changed_engine_but_never_changed_itself(loading: Loading) -> None:
    directory = publish(loading.root)
    (directory / "model.onnx").write_bytes(b"changed")
    assert factor(loading.loader.load_fallback(ModelConfig(name="m"), 1, "")) == 2
    onnx.save(make_scale_model(2.00001), directory / "fallback.onnx")
    with pytest.raises(CorruptVersion, match=r"fallback\.onnx has SHA-256"):
        loading.loader.load_fallback(ModelConfig(name="m"), 1, "")


def test_the_weights_beside_a_fallback_are_checked_with_it(loading: Loading) -> None:
    directory = publish(loading.root)
    (directory / "fallback.onnx.data").write_bytes(b"weights")
    evidence = read_evidence(directory)
    assert evidence is not None
    write_evidence(evidence.model_copy(update={"files": {**evidence.files, "fallback.onnx.data": "00"}}), directory)
    with pytest.raises(CorruptVersion, match=r"fallback\.onnx\.data has SHA-256"):
        loading.loader.load_fallback(ModelConfig(name="m"), 1, "")


def variant(file: str = "fast.onnx", **fields: Any) -> EngineRecord:
    return make_record(file, "variant", **{"speedup": 9.0, **fields})


def test_the_fastest_engine_serves_under_the_platform_that_was_published(loading: Loading) -> None:
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    openvino = variant("model.openvino.onnx", platform="openvino", settings=hint)
    # Told from the others by the last digits of its answers.
    publish(loading.root, variants=[(openvino, 2.0001)])
    loaded = loading.load()
    assert isinstance(loaded.engines[0], OpenVinoEngine)
    assert factor(loaded) == pytest.approx(2.0001)
    assert (loaded.config.platform, loaded.config.max_batch_size) == ("onnxruntime_onnx", 4)
    assert (loaded.degraded, loaded.note) == ("", "")
    assert [record.file for record in loaded.records] == ["model.openvino.onnx"]


@pytest.mark.parametrize(
    ("fields", "answer", "message"),
    [
        ({}, 7.0, r"fast\.onnx: golden output 'y' differs"),
        ({"settings": {"odd": "1"}}, 2.0, r"fast\.onnx: fast\.onnx asks for the setting odd"),
        ({"platform": "openvino", "settings": {"INFERENCE_PRECISION_HINT": "f7"}}, 2.0, r"fast\.onnx: OpenVINO cannot"),
    ],
)
def test_an_engine_that_fails_makes_way_for_the_next_best_and_that_is_told(
    loading: Loading, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], answer: float, message: str
) -> None:
    publish(loading.root, variants=[(variant(**fields), answer), (variant("slow.onnx", speedup=1.1), 2.0001)])
    loaded = loading.load()
    assert factor(loaded) == pytest.approx(2.0001)
    assert re.match(r"slow\.onnx serves because: " + message, loaded.degraded), loaded.degraded
    assert loading.golden_failures == ([("m", 1)] if answer == 7 else [])
    assert "model 'm' version 1: fast.onnx cannot serve: " in caplog.text


def test_when_every_engine_fails_the_fault_of_the_best_is_told_and_the_fallback_waits_to_be_asked(
    loading: Loading,
) -> None:
    publish(loading.root, chosen=7, built=7, variants=[(variant(), 5.0)])
    with pytest.raises(VerifyFailed, match="differs from what the original model gave by up to 12"):
        loading.load()
    assert loading.golden_failures == [("m", 1)] * 2


def test_an_engine_that_cannot_run_here_is_passed_over_with_a_note(
    loading: Loading, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    plan = variant("model.sm89.plan", platform="tensorrt_plan", target=TargetRecord(compute_capability="8.9"))
    publish(loading.root, variants=[(plan, 2.0)])
    loaded = loading.load()
    assert loaded.degraded == ""
    assert loaded.note.startswith("model.onnx serves; passed over: model.sm89.plan: ")
    assert "model 'm' version 1: passed over model.sm89.plan: " in caplog.text


def test_where_nothing_else_can_run_the_fallback_serves_and_says_why(loading: Loading) -> None:
    directory = publish(loading.root, fallback=2.0001)
    evidence = read_evidence(directory)
    assert evidence is not None
    needs = evidence.engines[0].model_copy(update={"target": TargetRecord(isa=("avx4096",))})
    write_evidence(evidence.model_copy(update={"engines": (needs, evidence.engines[1])}), directory)
    loaded = loading.load()
    assert factor(loaded) == pytest.approx(2.0001)
    assert loaded.degraded == (
        "fallback.onnx serves because: model.onnx: it was built for a CPU with avx4096, which this one does not have"
    )
    no_way_out = evidence.model_copy(update={"engines": (needs,)})
    write_evidence(no_way_out, directory)
    with pytest.raises(NotSupported, match=r"no engine of model 'm' version 1 can run here: model\.onnx: it was built"):
        loading.load()


def test_instances_on_two_kinds_of_device_each_take_what_runs_there(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = variant("model.openvino.onnx", platform="openvino")
    publish(loading.root, variants=[(openvino, 2.0)])
    asked: list[tuple[str, str]] = []

    def watched(path: Path, platform: str, threads: int, provider: str, *_: object) -> object:
        asked.append((path.name, provider))
        return open_engine(path, platform, threads)

    monkeypatch.setattr("service.loading.engine_doors.open_engine", watched)
    loaded = loading.load("instance_group [ { kind: KIND_GPU }, { kind: KIND_CPU }, { kind: KIND_GPU } ]")
    on_gpu, on_cpu = ("model.onnx", CUDA_PROVIDER), ("model.openvino.onnx", CPU_PROVIDER)
    assert asked == [on_gpu, on_gpu, on_cpu]
    assert [type(engine).__name__ for engine in loaded.engines] == [
        "OnnxRuntimeEngine", "OpenVinoEngine", "OnnxRuntimeEngine",
    ]  # fmt: skip


def test_a_plan_that_serves_where_the_device_was_left_open_is_reported_on_the_gpu(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_gpu = this_hardware().model_copy(update={"compute_capability": "8.9"})
    monkeypatch.setattr("service.loading.loader.this_hardware", lambda: on_gpu)
    cuda = variant("cuda.onnx", provider=CUDA_PROVIDER, target=TargetRecord(compute_capability="8.9"))
    publish(loading.root, variants=[(cuda, 2.0)])
    opened: list[str] = []

    def watched(path: Path, platform: str, threads: int, provider: str, *_: object) -> object:
        opened.append(provider)
        return open_engine(path, platform, threads)

    monkeypatch.setattr("service.loading.engine_doors.open_engine", watched)
    loaded = loading.load()
    assert opened == [CUDA_PROVIDER]
    assert loaded.config.instance_group[0].kind == ModelInstanceGroup.KIND_GPU


def test_a_version_of_an_older_release_is_refused_with_what_to_do(loading: Loading) -> None:
    directory = publish(loading.root)
    (directory / "evidence.json").write_text('{"schema_version": 1}')
    with pytest.raises(CorruptVersion, match=r"schema version 1, .* Build the version again with `python -m optimizer"):
        loading.load()


def test_a_version_without_a_fallback_says_so(loading: Loading) -> None:
    publish(loading.root, fallback=None)
    assert factor(loading.load()) == 2
    with pytest.raises(CorruptVersion, match="names no fallback engine"):
        loading.loader.load_fallback(ModelConfig(name="m"), 1, "")


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("input { name: 'z' data_type: TYPE_FP32 dims: 2 }", InvalidInput, "unexpected inference input 'z'"),
        ("instance_group { kind: KIND_MODEL }", NotSupported, "kind 3 is not supported; give KIND_CPU or KIND_GPU"),
        ("instance_group { gpus: [ 0, 1 ] }", NotSupported, r"asks for GPUs \[0, 1\]; only GPU 0"),
        ("instance_group { kind: KIND_GPU }", NotSupported, f"execution provider {CUDA_PROVIDER} is not in"),
        ("instance_group [ { }, { kind: KIND_GPU } ]", NotSupported, f"execution provider {CUDA_PROVIDER} is not in"),
        (
            "parameters { key: 'intra_op_thread_count' value { string_value: '-1' } }",
            NotSupported,
            "is '-1'; expected 1 or more",
        ),
        (
            "parameters { key: 'intra_op_thread_count' value { string_value: 'all' } }",
            NotSupported,
            "is 'all'; expected 1 or more",
        ),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(
    loading: Loading, text: str, kind: type[Error], message: str
) -> None:
    publish(loading.root)
    with pytest.raises(kind, match=message):
        loading.load(text)


@pytest.mark.parametrize(
    ("text", "threads", "providers"),
    [
        ("", lambda: threads_per_instance(1), [CPU_PROVIDER]),
        ("instance_group { count: 2 }", lambda: threads_per_instance(2), [CPU_PROVIDER] * 2),
        ("parameters { key: 'intra_op_thread_count' value { string_value: '3' } }", lambda: 3, [CPU_PROVIDER]),
        ("instance_group [ { }, { gpus: 0 } ]", lambda: threads_per_instance(2), [CPU_PROVIDER, CUDA_PROVIDER]),
    ],
)
def test_threads_and_devices_are_what_the_configuration_says(
    loading: Loading,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    threads: Callable[[], int],
    providers: list[str],
) -> None:
    publish(loading.root)
    asked: list[tuple[int, str]] = []

    def watched(path: Path, platform: str, threads: int, provider: str, *_: object) -> object:
        asked.append((threads, provider))
        return open_engine(path, platform, threads)

    monkeypatch.setattr("service.loading.engine_doors.open_engine", watched)
    loading.load(text)
    assert asked == [(threads(), provider) for provider in providers]


def test_nothing_stays_open_when_a_later_instance_fails(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(loading.root)
    opened: list[object] = []

    def fails_second(path: Path, platform: str, threads: int, *_: object) -> object:
        if opened:
            raise OSError("no memory for another")
        opened.append(open_engine(path, platform, threads))
        return opened[0]

    monkeypatch.setattr("service.loading.engine_doors.open_engine", fails_second)
    with pytest.raises(OSError, match="no memory"):
        loading.load("instance_group { count: 2 }")
    assert opened[0]._session is None  # type: ignore[attr-defined]


def test_configurations_are_read_from_the_repository_and_refused_by_field(loading: Loading) -> None:
    publish(loading.root)
    assert loading.loader.config("m") == ModelConfig(name="m")
    (loading.root / "m" / "config.pbtxt").write_text('runtime: "libmine.so"')
    with pytest.raises(NotSupported, match="does not honour runtime"):
        loading.loader.config("m")
    for missing in ("nobody", "../m"):
        with pytest.raises(NotFound):
            loading.loader.config(missing)
