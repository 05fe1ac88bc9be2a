"""Models that are made of others, over a real server and with the real clients."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from numpy.typing import NDArray
from onnx import TensorProto
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService, make_identity_model
from tests.contract.conftest import make_failing_model, make_simple_model, save_model
from tests.contract.test_sequences import configuration, make_accumulator_model
from tests.service.fake_steps import step_text

Ints = NDArray[np.int32]
HALVES = [
    step_text("simple", {"INPUT0": "INPUT0", "INPUT1": "INPUT1"}, {"OUTPUT0": "sum", "OUTPUT1": "difference"}),
    step_text("simple", {"INPUT0": "sum", "INPUT1": "difference"}, {"OUTPUT0": "OUTPUT0", "OUTPUT1": "OUTPUT1"}),
]
NESTED = [
    step_text("doubled", {"INPUT0": "INPUT0", "INPUT1": "INPUT1"}, {"OUTPUT0": "two", "OUTPUT1": "deux"}),
    step_text("doubled", {"INPUT0": "two", "INPUT1": "deux"}, {"OUTPUT0": "OUTPUT0", "OUTPUT1": "OUTPUT1"}),
]

PETS = """
max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" }
"""


def save_ensemble(
    repository: Path,
    name: str,
    steps: list[str],
    inputs: dict[str, tuple[str, str]],
    outputs: dict[str, tuple[str, str]],
    max_batch_size: int = 4,
) -> None:
    """Write an ensemble as Triton wants it: a configuration, and a version directory with nothing in it."""
    tensors = [
        f'{kind} {{ name: "{tensor}" data_type: {dtype} dims: [ {dims} ] }}'
        for kind, described in (("input", inputs), ("output", outputs))
        for tensor, (dtype, dims) in described.items()
    ]
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(
        f'platform: "ensemble" max_batch_size: {max_batch_size} {" ".join(tensors)} '
        f"ensemble_scheduling {{ {' '.join(steps)} }}"
    )


def int_tensors(*names: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(names, ("TYPE_INT32", "16"))


def make_repository(root: Path) -> Path:
    save_model(root, "simple", make_simple_model())
    save_model(root, "failing", make_failing_model())
    save_model(root, "plain", make_identity_model(shape=(2, 3)))
    pair = int_tensors("INPUT0", "INPUT1"), int_tensors("OUTPUT0", "OUTPUT1")
    save_ensemble(root, "doubled", HALVES, *pair)
    save_ensemble(root, "a_quadrupled", NESTED, *pair)
    save_model(root, "adds_up", make_accumulator_model(), configuration("direct { }"))
    steps = [
        step_text("identity", {"INPUT0": "in"}, {"OUTPUT0": "p"}),
        step_text("adds_up", {"INPUT": "p"}, {"OUTPUT": "out"}),
    ]
    save_model(root, "identity", make_identity_model(TensorProto.INT32, ("batch", 1)))
    save_ensemble(root, "sequence", steps, {"in": ("TYPE_INT32", "1")}, {"out": ("TYPE_INT32", "1")})
    save_model(root, "pets", make_identity_model(), PETS)
    (root / "pets" / "labels.txt").write_text("cat\ndog\nfish\n")
    steps = [step_text("pets", {"INPUT0": "in"}, {"OUTPUT0": "out"})]
    save_ensemble(root, "zoo", steps, {"in": ("TYPE_FP32", "3")}, {"out": ("TYPE_FP32", "3")})
    save_model(root, "square", make_identity_model(TensorProto.INT32, ("batch", 2, 2)))
    (root / "flat" / "1").mkdir(parents=True)
    (root / "flat" / "config.pbtxt").write_text(
        'platform: "ensemble" max_batch_size: 4 '
        'input { name: "in" data_type: TYPE_INT32 dims: [ 4 ] reshape { shape: [ 2, 2 ] } } '
        'output { name: "out" data_type: TYPE_INT32 dims: [ 1, 4 ] reshape { shape: [ 2, 2 ] } } '
        f"ensemble_scheduling {{ {step_text('square', {'INPUT0': 'in'}, {'OUTPUT0': 'out'})} }}"
    )
    save_ensemble(
        root,
        "fails",
        [step_text("failing", {"INPUT0": "in"}, {"OUTPUT0": "out"})],
        {"in": ("TYPE_FP32", "-1")},
        {"out": ("TYPE_FP32", "2, 2")},
    )
    return root


@pytest.fixture(scope="module")
def ensembles(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with start_service(make_repository(tmp_path_factory.mktemp("ensembles"))) as running:
        yield running


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def transport(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(ensembles: RunningService, transport: ModuleType) -> Iterator[Any]:
    port = ensembles.http_port if transport is triton_http else ensembles.grpc_port
    with transport.InferenceServerClient(f"127.0.0.1:{port}") as opened:
        yield opened


def inputs(transport: ModuleType, first: Ints, second: Ints) -> list[Any]:
    made = []
    for name, array in (("INPUT0", first), ("INPUT1", second)):
        made.append(transport.InferInput(name, list(array.shape), "INT32"))
        made[-1].set_data_from_numpy(array)
    return made


def rows(count: int, start: int = 0) -> Ints:
    return (np.arange(count * 16, dtype=np.int32) + start).reshape(count, 16)


@pytest.mark.parametrize(("name", "factor"), [("doubled", 2), ("a_quadrupled", 4)])
def test_an_ensemble_gives_what_its_steps_give_one_after_the_other(
    client: Any, transport: ModuleType, name: str, factor: int
) -> None:
    first, second = rows(3), rows(3, 1000)
    answer = client.infer(name, inputs(transport, first, second), request_id="r7")
    assert np.array_equal(answer.as_numpy("OUTPUT0"), factor * first)
    assert np.array_equal(answer.as_numpy("OUTPUT1"), factor * second)


def test_one_output_alone_can_be_asked_for(client: Any, transport: ModuleType) -> None:
    wanted = [transport.InferRequestedOutput("OUTPUT1")]
    answer = client.infer("doubled", inputs(transport, rows(1), rows(1, 5)), outputs=wanted)
    assert answer.as_numpy("OUTPUT0") is None
    assert np.array_equal(answer.as_numpy("OUTPUT1"), 2 * rows(1, 5))


def test_an_ensemble_is_described_like_any_model(client: Any, transport: ModuleType) -> None:
    assert client.is_model_ready("doubled", "1")
    as_json = {} if transport is triton_http else {"as_json": True}
    metadata = client.get_model_metadata("doubled", **as_json)
    assert metadata["platform"] == "ensemble"
    assert [tensor["name"] for tensor in metadata["inputs"]] == ["INPUT0", "INPUT1"]
    config = client.get_model_config("doubled", **as_json)
    steps = config.get("config", config)["ensemble_scheduling"]["step"]
    assert [step["model_name"] for step in steps] == ["simple", "simple"]


def test_an_ensemble_may_show_clients_another_shape_than_its_steps_see(client: Any, transport: ModuleType) -> None:
    tensor = transport.InferInput("in", [3, 4], "INT32")
    tensor.set_data_from_numpy(np.arange(12, dtype=np.int32).reshape(3, 4))
    found = client.infer("flat", [tensor]).as_numpy("out")
    assert found.tolist() == np.arange(12).reshape(3, 1, 4).tolist()
    told = client.get_model_metadata("flat", **({"as_json": True} if transport is triton_grpc else {}))
    assert [[int(size) for size in one["shape"]] for one in (*told["inputs"], *told["outputs"])] == [
        [-1, 4],
        [-1, 1, 4],
    ]


def test_a_step_that_fails_is_an_error_of_the_ensemble(client: Any, transport: ModuleType) -> None:
    tensor = transport.InferInput("in", [1, 5], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 5), np.float32))
    with pytest.raises(InferenceServerException, match="in ensemble 'fails', ") as told:
        client.infer("fails", [tensor])
    assert told.value.status() == ("500" if transport is triton_http else "StatusCode.INTERNAL")


def test_a_request_that_does_not_fit_is_the_callers_fault(client: Any, transport: ModuleType) -> None:
    with pytest.raises(InferenceServerException, match="batch-size is 5, must be 1 to 4 for 'doubled'") as told:
        client.infer("doubled", inputs(transport, rows(5), rows(5)))
    assert told.value.status() == ("400" if transport is triton_http else "StatusCode.INVALID_ARGUMENT")


def test_a_sequence_goes_through_an_ensemble_to_the_step_that_keeps_its_state(
    client: Any, transport: ModuleType
) -> None:
    def add(value: int, sequence: int, **flags: bool) -> int:
        tensor = transport.InferInput("in", [1, 1], "INT32")
        tensor.set_data_from_numpy(np.full((1, 1), value, np.int32))
        answer = client.infer("sequence", [tensor], sequence_id=sequence, **flags)
        return int(answer.as_numpy("out")[0, 0])

    assert [add(1, 7, sequence_start=True), add(10, 8, sequence_start=True)] == [1, 10]
    assert [add(2, 7), add(20, 8), add(3, 7, sequence_end=True), add(30, 8, sequence_end=True)] == [3, 30, 6, 60]


def test_classes_are_called_what_the_step_calls_them(ensembles: RunningService) -> None:
    tensor = triton_http.InferInput("in", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 3, 2]], np.float32))
    wanted = [triton_http.InferRequestedOutput("out", class_count=2)]
    with triton_http.InferenceServerClient(f"127.0.0.1:{ensembles.http_port}") as client:
        told = client.infer("zoo", [tensor], outputs=wanted).as_numpy("out").ravel()
    assert [text.decode().split(":")[1:] for text in told] == [["1", "dog"], ["2", "fish"]]


def counts(client: Any, name: str) -> dict[str, int]:
    (stats,) = client.get_inference_statistics(name)["model_stats"]
    kinds = {kind: stats["inference_stats"][kind]["count"] for kind in ("success", "compute_infer", "queue")}
    return {**kinds, "inferences": stats["inference_count"], "executions": stats["execution_count"]}


def test_an_ensemble_counts_its_requests_and_its_steps_count_theirs(ensembles: RunningService) -> None:
    with (
        triton_http.InferenceServerClient(f"127.0.0.1:{ensembles.http_port}") as client,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{ensembles.grpc_port}") as asking,
    ):
        before = {name: counts(client, name) for name in ("doubled", "simple")}

        def ask(number: int) -> bool:
            first, second = rows(2, number), rows(2, 7 * number)
            answer = asking.infer("doubled", inputs(triton_grpc, first, second))
            return np.array_equal(answer.as_numpy("OUTPUT0"), 2 * first)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(40)))
        after = {name: counts(client, name) for name in ("doubled", "simple")}
    grown = {name: {kind: after[name][kind] - before[name][kind] for kind in after[name]} for name in after}
    assert grown["doubled"] == {
        "success": 40,
        "compute_infer": 40,
        "queue": 40,
        "inferences": 80,
        "executions": 40,
    }
    assert grown["simple"]["success"] == 80
    assert grown["simple"]["inferences"] == 160


def test_an_ensemble_that_cannot_be_says_why_and_harms_nobody(start_service: StartService, tmp_path: Path) -> None:
    make_repository(tmp_path)
    step = {"INPUT0": "in"}, {"OUTPUT0": "out"}
    tensors = {"in": ("TYPE_FP32", "3")}, {"out": ("TYPE_FP32", "3")}
    save_ensemble(tmp_path, "orphan", [step_text("nowhere", *step)], *tensors)
    save_ensemble(tmp_path, "ring_a", [step_text("ring_b", {"in": "in"}, {"out": "out"})], *tensors)
    save_ensemble(tmp_path, "ring_b", [step_text("ring_a", {"in": "in"}, {"out": "out"})], *tensors)
    save_ensemble(tmp_path, "twisted", [step_text("simple", *step)], *tensors)
    with (
        start_service(tmp_path, "--strict-readiness", "false") as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        index = {row["name"]: row for row in client.get_model_repository_index()}
        for name in ("orphan", "ring_a", "ring_b", "twisted"):
            assert index[name]["state"] == "UNAVAILABLE", index[name]
        assert "nowhere" in index["orphan"]["reason"]
        assert "ring_b -> ring_a" in index["ring_a"]["reason"] + index["ring_b"]["reason"]
        assert "TYPE_FP32 is inferred from model 'twisted' while TYPE_INT32" in index["twisted"]["reason"]
        assert index["doubled"]["state"] == "READY"
        answer = client.infer("doubled", inputs(triton_http, rows(1), rows(1)))
        assert np.array_equal(answer.as_numpy("OUTPUT0"), 2 * rows(1))


def test_steps_come_with_their_ensemble_and_it_goes_with_them(start_service: StartService, tmp_path: Path) -> None:
    flags = ["--model-control-mode", "explicit"]
    with (
        start_service(make_repository(tmp_path), *flags) as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
    ):
        assert not client.is_model_ready("simple")
        client.load_model("a_quadrupled")
        assert client.is_model_ready("simple")
        assert client.is_model_ready("doubled")
        client.unload_model("simple")
        assert not client.is_model_ready("a_quadrupled")
        assert not client.is_model_ready("doubled")
        client.load_model("simple")
        assert client.is_model_ready("a_quadrupled")
        answer = client.infer("a_quadrupled", inputs(triton_http, rows(1), rows(1)))
        assert np.array_equal(answer.as_numpy("OUTPUT0"), 4 * rows(1))


def test_no_request_fails_while_a_step_is_reloaded(start_service: StartService, tmp_path: Path) -> None:
    flags = ["--model-control-mode", "explicit", "--load-model", "doubled"]
    stop = threading.Event()

    def ask(port: int) -> int:
        answered = 0
        with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
            while not stop.is_set() or not answered:
                answer = client.infer("doubled", inputs(triton_http, rows(1), rows(1)))
                assert np.array_equal(answer.as_numpy("OUTPUT0"), 2 * rows(1))
                answered += 1
        return answered

    with (
        start_service(make_repository(tmp_path), *flags) as running,
        triton_http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client,
        ThreadPoolExecutor(4) as pool,
    ):
        asking = [pool.submit(ask, running.http_port) for _ in range(4)]
        try:
            for _ in range(10):
                client.load_model("simple")
        finally:
            stop.set()
        assert all(one.result() for one in asking)
