"""Sequences through a real server: models with the field's names, asked by the field's clients."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import save_model

CONTROLS = """
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
    { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT64 } ] }
  ]
"""
STATE = 'state [ {{ input_name: "STATE" output_name: "NEW_STATE" data_type: TYPE_INT32 dims: [ 1 ] {initial} }} ]'
TENSORS = """
input [ { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }, { name: "SEEN" data_type: TYPE_INT64 dims: [ 4 ] } ]
"""


def make_accumulator_model() -> onnx.ModelProto:
    """Adds up the inputs of a sequence, and says in SEEN what its control inputs held."""
    integer, long = TensorProto.INT32, TensorProto.INT64
    inputs = [helper.make_tensor_value_info(name, integer, ["n", 1]) for name in ("INPUT", "START", "READY", "END")]
    inputs += [helper.make_tensor_value_info("CORRID", long, ["n", 1])]
    inputs += [helper.make_tensor_value_info("STATE", integer, ["n", 1])]
    flags = ["START", "READY", "END"]
    nodes = [
        helper.make_node("Add", ["INPUT", "STATE"], ["OUTPUT"]),
        helper.make_node("Identity", ["OUTPUT"], ["NEW_STATE"]),
        *(helper.make_node("Cast", [name], [f"{name}_LONG"], to=long) for name in flags),
        helper.make_node("Concat", [*(f"{name}_LONG" for name in flags), "CORRID"], ["SEEN"], axis=1),
    ]
    outputs = [helper.make_tensor_value_info(name, integer, ["n", 1]) for name in ("OUTPUT", "NEW_STATE")]
    outputs += [helper.make_tensor_value_info("SEEN", long, ["n", 4])]
    graph = helper.make_graph(nodes, "accumulator", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def make_named_model() -> onnx.ModelProto:
    """Takes its correlation id as text, and has no batch dimension."""
    text = TensorProto.STRING
    graph = helper.make_graph(
        [helper.make_node("StringConcat", ["WORD", "CORRID"], ["OUTPUT"])],
        "named",
        [helper.make_tensor_value_info(name, text, [1]) for name in ("WORD", "CORRID")],
        [helper.make_tensor_value_info("OUTPUT", text, [1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def configuration(strategy: str, rows: int = 4, initial: str = "", rest: str = "") -> str:
    return (
        f"max_batch_size: {rows} {TENSORS} sequence_batching {{ {strategy} {CONTROLS} "
        f"{STATE.format(initial=initial)} {rest} }}"
    )


@pytest.fixture(scope="module")
def sequence_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("sequences") / "models"
    model = make_accumulator_model()
    save_model(repository, "direct", model, configuration("direct { }"))
    save_model(repository, "oldest", model, configuration("oldest { max_candidate_sequences: 8 }"))
    hasty = configuration("direct { }", rows=1, rest="max_sequence_idle_microseconds: 200000")
    save_model(repository, "hasty", model, hasty)
    save_model(
        repository, "patient", model, configuration("oldest { }", rest="max_sequence_idle_microseconds: 9000000")
    )
    initial = 'initial_state { name: "base" data_type: TYPE_INT32 dims: [ 1 ] data_file: "base" }'
    save_model(repository, "based", model, configuration("direct { }", initial=initial))
    (repository / "based" / "initial_state").mkdir()
    (repository / "based" / "initial_state" / "base").write_bytes(np.array([1000], np.int32).tobytes())
    missing = initial.replace('"base" }', '"elsewhere" }')
    save_model(repository, "missing", model, configuration("direct { }", initial=missing))
    named = """
    sequence_batching {
      control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }
    }
    """
    save_model(repository, "named", make_named_model(), named)
    return repository


@pytest.fixture(scope="module")
def sequence_service(start_service: StartService, sequence_repository: Path) -> Iterator[RunningService]:
    flags = ["--strict-readiness", "false", "--model-control-mode", "explicit", "--load-model", "*"]
    with start_service(sequence_repository, *flags) as running:
        yield running


Ask = Callable[..., Any]


@pytest.fixture(params=["http", "grpc"])
def ask(request: pytest.FixtureRequest, sequence_service: RunningService) -> Iterator[Ask]:
    """`ask(model, sequence id, value, flags)` gives the client's result; `s` in the flags starts, `e` ends."""
    module: Any = httpclient if request.param == "http" else grpcclient
    port = sequence_service.http_port if request.param == "http" else sequence_service.grpc_port
    client = module.InferenceServerClient(f"127.0.0.1:{port}")

    def infer(model: str, sequence: int | str, value: int, flags: str = "", rows: int = 1) -> Any:
        tensor = module.InferInput("INPUT", [rows, 1], "INT32")
        tensor.set_data_from_numpy(np.full((rows, 1), value, np.int32))
        return client.infer(
            model, [tensor], sequence_id=sequence, sequence_start="s" in flags, sequence_end="e" in flags
        )

    infer.client, infer.module = client, module  # type: ignore[attr-defined]
    infer.address = f"127.0.0.1:{port}"  # type: ignore[attr-defined]
    yield infer
    client.close()


def total(answer: Any) -> int:
    return int(answer.as_numpy("OUTPUT")[0, 0])


@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_interleaved_sequences_are_added_up_apart(ask: Ask, model: str) -> None:
    """As the field's example does it: some numbers in one sequence, their negatives in another."""
    values = [11, 7, 5, 3, 2, 0, 1]
    sums: dict[int, list[int]] = {1007: [], 1008: []}
    for place, value in enumerate(values):
        flags = "s" * (place == 0) + "e" * (place == len(values) - 1)
        sums[1007].append(total(ask(model, 1007, value, flags)))
        sums[1008].append(total(ask(model, 1008, -value, flags)))
    assert sums[1007] == np.cumsum(values).tolist()
    assert sums[1008] == (-np.cumsum(values)).tolist()


@pytest.mark.parametrize("model", ["direct", "oldest"])
def test_sequences_may_be_sent_over_a_stream_without_waiting(sequence_service: RunningService, model: str) -> None:
    """As the field's streaming example does it: all requests at once, and of one sequence the answers in order."""
    answers: SimpleQueue[Any] = SimpleQueue()
    values = [11, 7, 5, 3, 2, 0, 1]
    with grpcclient.InferenceServerClient(f"127.0.0.1:{sequence_service.grpc_port}") as client:
        client.start_stream(callback=lambda result, error: answers.put(error or result))
        for place, value in enumerate(values):
            for sequence, sign in [(2001, 1), (2002, -1)]:
                tensor = grpcclient.InferInput("INPUT", [1, 1], "INT32")
                tensor.set_data_from_numpy(np.array([[sign * value]], np.int32))
                client.async_stream_infer(
                    model,
                    [tensor],
                    request_id=f"{sequence}_{place}",
                    sequence_id=sequence,
                    sequence_start=place == 0,
                    sequence_end=place == len(values) - 1,
                )
        results = [answers.get(timeout=30) for _ in range(2 * len(values))]
        client.stop_stream()
    sums: dict[str, list[int]] = {"2001": [], "2002": []}
    for result in results:
        assert not isinstance(result, Exception), result
        sums[result.get_response().id.partition("_")[0]].append(total(result))
    assert sums == {"2001": np.cumsum(values).tolist(), "2002": (-np.cumsum(values)).tolist()}


def test_the_model_sees_where_a_request_stands(ask: Ask) -> None:
    seen = [ask("direct", 42, 1, flags).as_numpy("SEEN")[0].tolist() for flags in ("s", "", "e")]
    assert seen == [[1, 1, 0, 42], [0, 1, 0, 42], [0, 1, 1, 42]]


def test_a_state_may_begin_with_what_a_file_says(ask: Ask) -> None:
    assert [total(ask("based", 5, 1, flags)) for flags in ("s", "e", "s", "e")] == [1001, 1002, 1001, 1002]


def test_an_initial_state_without_its_file_fails_the_load(sequence_service: RunningService) -> None:
    assert "initial_state cannot be read" in sequence_service.output


def test_ids_may_be_text(ask: Ask) -> None:
    module = ask.module  # type: ignore[attr-defined]
    tensor = module.InferInput("WORD", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"id: "], object))
    client = ask.client  # type: ignore[attr-defined]
    answer = client.infer("named", [tensor], sequence_id="caller-7", sequence_start=True, sequence_end=True)
    assert answer.as_numpy("OUTPUT").tolist() == [b"id: caller-7"]


def test_a_sequence_that_pauses_for_too_long_makes_way(ask: Ask) -> None:
    """One place, held by a sequence whose client went away: the next one waits until it is given up."""
    assert total(ask("hasty", 70, 1, "s")) == 1
    assert total(ask("hasty", 71, 2, "se")) == 2
    with pytest.raises(InferenceServerException, match="must specify the START flag on the first request"):
        ask("hasty", 70, 1)


def test_a_reload_lets_a_sequence_end_where_it_began(ask: Ask, sequence_repository: Path) -> None:
    """No request of it fails, while another one starts on what was loaded."""
    model = sequence_repository / "patient"
    old = max(int(directory.name) for directory in model.iterdir() if directory.is_dir())
    shutil.copytree(model / str(old), model / str(old + 1))
    steps = [total(ask("patient", 300, 1, "s"))]
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(load_again, ask)
        while version(ask("patient", 302, 1, "se")) == str(old):
            steps.append(total(ask("patient", 300, 1)))
        begun_later = ask("patient", 301, 5, "s")
        steps += [total(ask("patient", 300, 1)) for _ in range(3)]
        assert not loading.done()
        last = ask("patient", 300, 1, "e")
        loading.result(timeout=20)
    assert [*steps, total(last)] == list(range(1, len(steps) + 2))
    assert version(last) == str(old)
    assert version(begun_later) == str(old + 1)
    assert total(ask("patient", 301, 5, "e")) == 10


def version(answer: Any) -> str:
    response = answer.get_response()
    name: str = response["model_version"] if isinstance(response, dict) else response.model_version
    return name


def load_again(ask: Ask) -> None:
    """With a client of its own, because one over HTTP belongs to its thread."""
    address = ask.address  # type: ignore[attr-defined]
    with ask.module.InferenceServerClient(address) as client:  # type: ignore[attr-defined]
        client.load_model("patient")


@pytest.mark.parametrize(
    ("sequence", "flags", "rows", "message"),
    [
        (0, "", 1, r"inference request to model 'direct' must specify a non-zero or non-empty correlation ID"),
        (991, "", 1, r"for sequence 991 to model 'direct' must specify the START flag on the first request"),
        (992, "s", 2, r"to model 'direct' must specify batch-size 1 due to requirements of sequence batcher"),
        ("text", "s", 1, r"sequence ids of model 'direct' must be whole numbers"),
    ],
)
def test_what_belongs_to_no_sequence_is_the_callers_fault(
    ask: Ask, sequence: int | str, flags: str, rows: int, message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        ask("direct", sequence, 1, flags, rows)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_more_sequences_than_places_are_all_answered(sequence_service: RunningService) -> None:
    """Forty sequences in flight together, over the four rows of a batch."""
    with httpclient.InferenceServerClient(f"127.0.0.1:{sequence_service.http_port}", concurrency=40) as client:

        def send(sequence: int, value: int, flags: str) -> Any:
            tensor = httpclient.InferInput("INPUT", [1, 1], "INT32")
            tensor.set_data_from_numpy(np.array([[value]], np.int32))
            return client.async_infer(
                "direct", [tensor], sequence_id=sequence, sequence_start="s" in flags, sequence_end="e" in flags
            )

        running: list[list[int]] = []
        for value, flags in [(1, "s"), (2, ""), (3, ""), (4, "e")]:
            pending = [send(5000 + number, value * (number + 1), flags) for number in range(4)]
            running.append([total(one.get_result()) for one in pending])
        assert running == [[value * (number + 1) for number in range(4)] for value in (1, 3, 6, 10)]
        waiting = [send(6000 + number, number, "se") for number in range(40)]
        assert [total(one.get_result()) for one in waiting] == list(range(40))


def test_clients_see_the_whole_configuration_and_only_their_own_tensors(sequence_service: RunningService) -> None:
    with grpcclient.InferenceServerClient(f"127.0.0.1:{sequence_service.grpc_port}") as client:
        batching = client.get_model_config("named").config.sequence_batching
        assert batching.HasField("direct")
        assert batching.max_sequence_idle_microseconds == 1_000_000
        metadata = client.get_model_metadata("named")
    assert [tensor.name for tensor in metadata.inputs] == ["WORD"]
