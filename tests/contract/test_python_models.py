"""Python models through a real server: any tensors, errors of their own, other models, decoupled answers, crashes."""

import os
import queue
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.conftest import RunningService, StartService
from tests.contract.conftest import make_simple_model, save_model
from tests.contract.test_isolation import children, wait_until

SCALE = """
    import os
    import neighbour
    import numpy as np
    from enginehouse.python_model import InvalidRequest, Model, Request, Response

    class Scale(Model):
        def initialize(self, arguments):
            self.factor = np.float32(arguments.parameters["factor"])
            self.batches = 0
            assert (arguments.model, arguments.version, arguments.device) == ("scale", 1, "cpu")

        def execute(self, requests):
            self.batches += 1
            return [self.one(request, len(requests)) for request in requests]

        def one(self, request, company):
            match request.parameters.get("do"):
                case "raise":
                    raise ZeroDivisionError("planted")
                case "refuse":
                    raise InvalidRequest("a row must not be negative.")
                case "error":
                    return Response(error="only this one")
                case "forget":
                    return Response({})
                case "wrong":
                    return Response({"y": np.zeros((7, 7), np.int8)})
                case "die":
                    os.kill(os.getpid(), 9)
            parameters = {"company": company, "mine": request.parameters.get("mine", "none"), "id": request.id}
            return Response({"y": neighbour.times(request.inputs["x"], self.factor)}, parameters=parameters)
"""
TEXT = """
    import numpy as np
    from enginehouse.python_model import Response

    class Upper:
        async def execute(self, requests):
            return [Response({"out": np.array([[item.decode().upper() for item in row] for row in r.inputs["in"]])})
                    for r in requests]
"""
PIPELINE = """
    import numpy as np
    from enginehouse.python_model import Model, ModelError, Response, infer

    class Pipeline(Model):
        def execute(self, requests):
            return [self.one(request) for request in requests]

        def one(self, request):
            a, b = request.inputs["INPUT0"], request.inputs["INPUT1"]
            try:
                first = request.infer(request.parameters.get("model", "simple"), {"INPUT0": a, "INPUT1": b})
                second = infer("simple", {"INPUT0": first["OUTPUT0"], "INPUT1": b}, outputs=["OUTPUT0"])
            except ModelError as problem:
                return Response(error=f"the other model: {problem}")
            assert list(second) == ["OUTPUT0"]
            return Response({"OUTPUT0": second["OUTPUT0"]})
"""
REPEAT = """
    import threading
    import time
    import numpy as np
    from enginehouse.python_model import Model, Response

    class Repeat(Model):
        def execute(self, requests):
            for request in requests:
                count = int(request.inputs["IN"][0])
                if request.parameters.get("do") == "drop":
                    continue
                if request.parameters.get("do") == "raise":
                    raise ValueError("planted")
                threading.Thread(target=self.answer, args=(request.response_sender(), request, count)).start()

        def answer(self, sender, request, count):
            for number in range(count):
                if request.is_cancelled():
                    open(request.parameters["tell"], "w").close()
                    break
                sender.send(Response({"OUT": np.array([number], np.int32)}))
                time.sleep(request.parameters.get("pause", 0))
            sender.finish()
"""
SUM_STREAM = """
    import numpy as np
    from enginehouse.python_model import Model, Response, infer_stream

    class Sum(Model):
        def execute(self, requests):
            return [Response({"OUT": sum(part["OUT"] for part in infer_stream("repeat", {"IN": request.inputs["IN"]}))})
                    for request in requests]
"""
TALLY = """
    import numpy as np
    from enginehouse.python_model import Model, Response

    class Tally(Model):
        def initialize(self, arguments):
            self.sums = {}

        def execute(self, requests):
            return [self.one(request) for request in requests]

        def one(self, request):
            place = request.sequence
            assert place.is_start == bool(request.inputs["START"][0, 0])
            if place.is_start:
                self.sums[place.id] = 0
            self.sums[place.id] += int(request.inputs["IN"][0, 0])
            total = self.sums.pop(place.id) if place.is_end else self.sums[place.id]
            return Response({"OUT": np.array([[total]], np.int32)})
"""
CONFIGS = {
    "tally": """
        backend: "python"
        max_batch_size: 4
        input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
        output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
        instance_group [ { kind: KIND_CPU count: 2 } ]
        sequence_batching {
            control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] } ]
        }
    """,
    "scale": """
        backend: "python"
        max_batch_size: 8
        dynamic_batching { max_queue_delay_microseconds: 30000 }
        input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
        parameters { key: "factor" value { string_value: "3" } }
    """,
    "text": """
        backend: "python"
        max_batch_size: 4
        input [ { name: "in" data_type: TYPE_STRING dims: [ -1 ] } ]
        output [ { name: "out" data_type: TYPE_STRING dims: [ -1 ] } ]
    """,
    "pipeline": """
        backend: "python"
        max_batch_size: 8
        input { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] }
        input { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
        output [ { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] } ]
    """,
    "repeat": """
        backend: "python"
        input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
        output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
        model_transaction_policy { decoupled: true }
    """,
    "sum": """
        backend: "python"
        input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]
        output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]
    """,
}
SOURCES = {"scale": SCALE, "text": TEXT, "pipeline": PIPELINE, "repeat": REPEAT, "sum": SUM_STREAM, "tally": TALLY}


def add_python_model(repository: Path, name: str, source: str, config: str) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(dedent(source))
    (repository / name / "config.pbtxt").write_text(dedent(config))


@pytest.fixture(scope="module")
def python_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("python")
    save_model(repository, "simple", make_simple_model())
    for name, source in SOURCES.items():
        add_python_model(repository, name, source, CONFIGS[name])
    (repository / "scale" / "1" / "neighbour.py").write_text("def times(a, b):\n    return a * b\n")
    return repository


@pytest.fixture(scope="module")
def service(start_service: StartService, python_repository: Path) -> Iterator[RunningService]:
    with start_service(python_repository, "--model-control-mode", "explicit", "--load-model", "*") as running:
        yield running


@pytest.fixture
def grpc(service: RunningService) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as client:
        yield client


@pytest.fixture
def http(service: RunningService) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{service.http_port}", concurrency=8) as client:
        yield client


def tensor(library: Any, name: str, array: Any, datatype: str) -> Any:
    made = library.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def scale(client: Any, library: Any, value: float = 1, **parameters: Any) -> Any:
    row = tensor(library, "x", np.full((1, 2), value, np.float32), "FP32")
    return client.infer("scale", [row], parameters=parameters or None, request_id="seven")


def test_a_python_model_answers_both_transports(grpc: Any, http: Any) -> None:
    for client, library in ((grpc, triton_grpc), (http, triton_http)):
        assert scale(client, library, 5).as_numpy("y").tolist() == [[15, 15]]
    assert http.get_model_metadata("scale")["platform"] == "python"
    assert http.is_model_ready("scale")


def test_requests_come_together_and_each_says_its_own(http: Any) -> None:
    rows = [tensor(triton_http, "x", np.full((1, 2), value, np.float32), "FP32") for value in range(6)]
    waiting = [
        http.async_infer("scale", [row], parameters={"mine": f"number {value}"}) for value, row in enumerate(rows)
    ]
    answers = [one.get_result() for one in waiting]
    assert [answer.as_numpy("y")[0, 0] for answer in answers] == [0, 3, 6, 9, 12, 15]
    parameters = [answer.get_response()["parameters"] for answer in answers]
    assert [one["mine"] for one in parameters] == [f"number {value}" for value in range(6)]
    assert max(one["company"] for one in parameters) > 1


@pytest.mark.parametrize(
    ("do", "status", "message"),
    [
        ("raise", "INTERNAL", "the model raised ZeroDivisionError: planted"),
        ("refuse", "INVALID_ARGUMENT", "a row must not be negative."),
        ("error", "INTERNAL", "only this one"),
        ("forget", "INTERNAL", "gave no output 'y'"),
        ("wrong", "INTERNAL", "output 'y'"),
    ],
)
def test_a_models_own_error_reaches_its_caller(grpc: Any, do: str, status: str, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as problem:
        scale(grpc, triton_grpc, do=do)
    assert status in problem.value.status()
    assert scale(grpc, triton_grpc).as_numpy("y").tolist() == [[3, 3]], "and the model goes on"


def test_an_error_of_one_is_not_the_others(http: Any) -> None:
    row = tensor(triton_http, "x", np.ones((1, 2), np.float32), "FP32")
    waiting = [http.async_infer("scale", [row], parameters={"do": "error"} if odd else None) for odd in (0, 1, 0, 1)]
    for odd, one in zip((0, 1, 0, 1), waiting, strict=True):
        if odd:
            with pytest.raises(InferenceServerException, match="only this one"):
                one.get_result()
        else:
            assert one.get_result().as_numpy("y").tolist() == [[3, 3]]


def test_a_model_that_kills_itself_is_started_again(service: RunningService, grpc: Any) -> None:
    (pid,) = children(service, "scale")
    with pytest.raises(InferenceServerException, match=r"SIGKILL\) while it computed") as problem:
        scale(grpc, triton_grpc, do="die")
    assert "INTERNAL" in problem.value.status()
    wait_until(lambda: children(service, "scale") not in ([], [pid]))
    wait_until(lambda: answers_again(grpc))


def answers_again(grpc: Any) -> bool:
    try:
        return bool(scale(grpc, triton_grpc).as_numpy("y").tolist() == [[3, 3]])
    except InferenceServerException as problem:
        if "UNAVAILABLE" not in str(problem.status()):
            raise
        return False


def test_text_and_a_coroutine(http: Any) -> None:
    words = np.array([["a", "bü"], ["c", ""]], object)
    answer = http.infer("text", [tensor(triton_http, "in", words, "BYTES")])
    assert [[item.decode() for item in row] for row in answer.as_numpy("out")] == [["A", "BÜ"], ["C", ""]]


def pipeline(client: Any, **parameters: Any) -> Any:
    a, b = np.arange(16, dtype=np.int32)[None], np.ones((1, 16), np.int32)
    inputs = [tensor(triton_grpc, "INPUT0", a, "INT32"), tensor(triton_grpc, "INPUT1", b, "INT32")]
    return client.infer("pipeline", inputs, parameters=parameters or None)


def test_a_model_asks_other_models(grpc: Any) -> None:
    assert pipeline(grpc).as_numpy("OUTPUT0").tolist() == [list(range(2, 18))]


def test_the_other_models_refusal_is_told(grpc: Any) -> None:
    with pytest.raises(InferenceServerException, match="the other model: Request for unknown model: 'nonesuch'"):
        pipeline(grpc, model="nonesuch")
    with pytest.raises(InferenceServerException, match=r"the other model: .*unexpected inference input 'INPUT0'"):
        pipeline(grpc, model="scale")


class Stream:
    """A stream of requests, and what comes back on it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self.heard.put((result, error)))

    def ask(self, count: int, request_id: str, **parameters: Any) -> None:
        self.client.async_stream_infer(
            "repeat",
            [tensor(triton_grpc, "IN", np.array([count], np.int32), "INT32")],
            request_id=request_id,
            enable_empty_final_response=True,
            parameters=parameters or None,
        )

    def collect(self, ends: int) -> dict[str, list[Any]]:
        """Numbers by request, until so many requests have ended; an error stands for itself."""
        found: dict[str, list[Any]] = {}
        while ends:
            result, error = self.heard.get(timeout=30)
            if error is not None:
                found.setdefault("", []).append(str(error))
                ends -= 1
                continue
            response = result.get_response()
            numbers = result.as_numpy("OUT")
            found.setdefault(response.id, []).extend([] if numbers is None else numbers.tolist())
            ends -= response.parameters["triton_final_response"].bool_param
        return found


@pytest.fixture
def stream(grpc: Any) -> Iterator[Stream]:
    made = Stream(grpc)
    yield made
    grpc.stop_stream()


def test_a_decoupled_model_answers_any_number_of_times(stream: Stream) -> None:
    for count in (3, 0, 5):
        stream.ask(count, f"r{count}")
    assert stream.collect(3) == {"r3": [0, 1, 2], "r0": [], "r5": [0, 1, 2, 3, 4]}


def test_the_next_request_does_not_wait_for_the_last_response_of_the_one_before(stream: Stream) -> None:
    stream.ask(40, "slow", pause=0.05)
    wait_until(lambda: not stream.heard.empty())
    begun = time.monotonic()
    stream.ask(1, "fast")
    found: list[str] = []
    while "fast" not in found:
        result, _ = stream.heard.get(timeout=30)
        found.append(result.get_response().id)
    assert time.monotonic() - begun < 1
    stream.collect(2)


@pytest.mark.parametrize(
    ("do", "message"), [("drop", "let go of a request without a last response"), ("raise", "ValueError: planted")]
)
def test_a_decoupled_request_never_stays_without_an_end(stream: Stream, do: str, message: str) -> None:
    stream.ask(2, "odd", do=do)
    (text,) = stream.collect(1)[""]
    assert message in text
    stream.ask(1, "next")
    assert stream.collect(1) == {"next": [0]}


def test_a_decoupled_model_hears_that_its_caller_left(service: RunningService, grpc: Any, tmp_path: Path) -> None:
    told = tmp_path / "told"
    leaver = Stream(grpc)
    leaver.ask(10_000, "long", pause=0.01, tell=str(told))
    wait_until(lambda: not leaver.heard.empty())
    grpc.stop_stream(cancel_requests=True)
    wait_until(told.exists)


def test_a_crash_ends_open_streams_with_an_error(service: RunningService, stream: Stream) -> None:
    stream.ask(10_000, "long", pause=0.01)
    wait_until(lambda: not stream.heard.empty())
    os.kill(children(service, "repeat")[0], signal.SIGKILL)
    errors = stream.collect(1)[""]
    assert "SIGKILL" in errors[0]


def test_a_model_sums_what_a_decoupled_one_gives(service: RunningService, http: Any) -> None:
    five = tensor(triton_http, "IN", np.array([5], np.int32), "INT32")
    wait_until(lambda: children(service, "repeat"))
    # The crash of the test before may not be over.
    wait_until(lambda: is_answered(http, five))
    assert http.infer("sum", [five]).as_numpy("OUT").tolist() == [10]


def is_answered(http: Any, five: Any) -> bool:
    try:
        http.infer("sum", [five])
    except InferenceServerException as problem:
        if "start" not in str(problem):
            raise
        return False
    return True


Tell = Callable[..., int]


@pytest.fixture
def tell(grpc: Any) -> Tell:
    """Add to the sum of a sequence: `tell(sequence, value, start=False, end=False)` gives the sum."""

    def add(sequence: int, value: int, start: bool = False, end: bool = False) -> int:
        inputs = [tensor(triton_grpc, "IN", np.array([[value]], np.int32), "INT32")]
        answer = grpc.infer("tally", inputs, sequence_id=sequence, sequence_start=start, sequence_end=end)
        return int(answer.as_numpy("OUT")[0, 0])

    return add


def test_sequences_keep_their_state_in_the_model(tell: Tell) -> None:
    ids = range(7, 13)
    assert [tell(one, one, start=True) for one in ids] == list(ids)
    assert [tell(one, 10) for one in reversed(ids)] == [one + 10 for one in reversed(ids)]
    assert [tell(one, 100, end=True) for one in ids] == [one + 110 for one in ids]


def test_a_reload_lets_a_sequence_end_in_the_process_where_it_began(
    tell: Tell, service: RunningService, python_repository: Path
) -> None:
    """Its state is nowhere else, and no request of it fails."""
    source = python_repository / "tally" / "1" / "model.py"
    source.write_text(f"{source.read_text()}\n# Another file than before.\n")
    before = set(children(service, "tally"))
    sums = [tell(50, 1, start=True)]
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{service.grpc_port}") as other, ThreadPoolExecutor() as pool:
        loading = pool.submit(other.load_model, "tally")
        wait_until(lambda: len(set(children(service, "tally")) - before) == len(before))
        end = time.monotonic() + 2
        while time.monotonic() < end:
            sums.append(tell(50, 1))
            time.sleep(0.02)
        assert not loading.done()
        sums.append(tell(50, 1, end=True))
        loading.result(timeout=20)
    assert sums == list(range(1, len(sums) + 1))
    assert not before & set(children(service, "tally"))
    assert tell(51, 5, start=True, end=True) == 5


def test_statistics_count_its_requests(http: Any) -> None:
    before = http.get_inference_statistics("text")["model_stats"][0]["inference_count"]
    http.infer("text", [tensor(triton_http, "in", np.array([["a"]], object), "BYTES")])
    assert http.get_inference_statistics("text")["model_stats"][0]["inference_count"] == before + 1


@pytest.mark.parametrize(
    ("source", "config", "message"),
    [
        ("import triton_python_backend_utils", CONFIGS["text"], "exists only inside Triton"),
        ("def execute(requests): ...", CONFIGS["text"], "must hold one class with execute(requests); found none"),
        ("raise RuntimeError('planted')", CONFIGS["text"], "the model raised RuntimeError: planted"),
        ("import os; os._exit(7)", CONFIGS["text"], "ended with status 7 before it was ready"),
        (
            TALLY,
            CONFIGS["tally"].replace("sequence_batching {", 'sequence_batching { state { input_name: "a" }'),
            "keep the state in the model",
        ),
        (TEXT, 'backend: "python"', "a Python model's config.pbtxt must name its inputs and outputs"),
        (
            "from enginehouse.python_model import *\nclass A(Model):\n    def initialize(self, _): infer('simple', {})",
            CONFIGS["text"],
            "cannot be asked before this one serves",
        ),
    ],
)
def test_what_is_wrong_with_a_model_is_told_when_it_is_loaded(
    start_service: StartService, tmp_path: Path, source: str, config: str, message: str
) -> None:
    add_python_model(tmp_path, "broken", source, config)
    with start_service(tmp_path) as running:
        wait_until(lambda: message in running.output)
