"""A Python model is asked the samples of its configuration, as clients would ask, before its version answers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from enginehouse.config_completion import complete_defaults
from enginehouse.errors import EngineCrashed, EngineFailed, Error, InvalidInput
from enginehouse.model_config import config_from_text
from enginehouse.python_engine import Ask, ModelCall, Reply
from service.loaded import LoadedVersion
from service.loading.warmup import warm_up
from tests.enginehouse.python_child import CONFIG, Make, opened_models

SAMPLE = "inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ 2 ] random_data: true } }"
# Writes down each batch: of each request the rows, the place in its sequence and what else it was given.
WRITER = """
class M(Model):
    def initialize(self, arguments):
        self.told = open(os.path.join(os.path.dirname(arguments.directory), "told"), "a", buffering=1)
    def execute(self, requests):
        self.told.write(repr([self.words(r) for r in requests]) + "\\n")
        return [Response({"y": r.inputs["x"]}) for r in requests]
    def words(self, r):
        place = r.sequence and (r.sequence.is_start, r.sequence.is_end)
        others = {name: value.ravel().tolist() for name, value in r.inputs.items() if name != "x"}
        return r.inputs["x"].shape, r.outputs, place, others
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    yield from opened_models(tmp_path)


@pytest.fixture
def warm(make: Make, tmp_path: Path) -> Callable[..., list[str]]:
    """Warm a model up; what it wrote down."""

    def load(source: str, warmup: str, more: str = "", count: int = 1, ask: Ask | None = None) -> list[str]:
        text = f"{CONFIG} {more} {warmup}"
        engines = [make(source, text, instance) for instance in range(count)]
        config = config_from_text(text, "m")
        complete_defaults(config)
        warm_up(LoadedVersion(config, 3, tmp_path / "3", engines, 0.0), ask)
        told = tmp_path / "told"
        return told.read_text().splitlines() if told.exists() else []

    return load


def test_as_many_clients_as_the_sample_says_ask_together_each_instance(warm: Callable[..., list[str]]) -> None:
    lines = warm(WRITER, f"model_warmup {{ name: 'a' batch_size: 3 count: 2 {SAMPLE} }}", count=2)
    assert lines == [str([((1, 2), ("y",), None, {})] * 3)] * 4


CONTROLS = " ".join(
    f"control_input {{ name: '{name}' control {{ kind: CONTROL_SEQUENCE_{name} int32_false_true: [ 0, 1 ] }} }}"
    for name in ("START", "END", "READY")
)


def test_a_sample_of_a_sequence_is_a_whole_one(warm: Callable[..., list[str]]) -> None:
    (line,) = warm(WRITER, f"model_warmup {{ name: 'a' {SAMPLE} }}", f"sequence_batching {{ {CONTROLS} }}")
    assert line == str([((1, 2), ("y",), (True, True), {"START": [1], "END": [1], "READY": [1]})])


def test_a_sample_may_give_the_controls_itself(warm: Callable[..., list[str]]) -> None:
    given = "inputs { key: 'END' value { data_type: TYPE_INT32 dims: [ 1 ] zero_data: true } }"
    (line,) = warm(WRITER, f"model_warmup {{ name: 'a' {SAMPLE} {given} }}", f"sequence_batching {{ {CONTROLS} }}")
    assert "'END': [0]" in line


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("raise ValueError('planted')", EngineFailed, "the model raised ValueError: planted"),
        ("raise InvalidRequest('not this')", InvalidInput, "not this"),
        ("os.kill(os.getpid(), 9)", EngineCrashed, r"was ended by signal 9 \(SIGKILL\) while it computed"),
        ("return [Response(error='only the second')]", EngineFailed, "execute returned 1 for 2 requests"),
        ("return [Response({'y': requests[0].inputs['x']}), Response(error='this one')]", EngineFailed, "this one"),
        ("infer('other', {})", EngineFailed, "model 'other' cannot be asked before this one serves"),
    ],
)
def test_what_goes_wrong_is_told_with_the_name_of_the_sample(
    warm: Callable[..., list[str]], body: str, error: type[Error], message: str
) -> None:
    source = f"class M:\n    def execute(self, requests):\n        {body}\n"
    with pytest.raises(error, match=f"^model_warmup 'second': .*{message}"):
        warm(source, f"model_warmup {{ name: 'second' batch_size: 2 {SAMPLE} }}")


def test_a_sample_that_no_client_could_send_is_refused(warm: Callable[..., list[str]]) -> None:
    with pytest.raises(InvalidInput, match="model_warmup 'a': unexpected shape for input 'x'"):
        warm(WRITER, f"model_warmup {{ name: 'a' {SAMPLE.replace('[ 2 ]', '[ 3 ]')} }}")


def test_the_last_response_of_a_decoupled_model_is_waited_for(warm: Callable[..., list[str]], tmp_path: Path) -> None:
    source = f"""
    class M(Model):
        def execute(self, requests):
            for r in requests:
                threading.Thread(target=self.answer, args=(r.response_sender(),)).start()
        def answer(self, sender):
            for number in range(200):
                sender.send(Response({{"y": np.zeros((1, 2), np.float32)}}))
            time.sleep(0.1)
            open("{tmp_path}/told", "a").write("done\\n")
            sender.finish()
    """
    decoupled = "model_transaction_policy { decoupled: true }"
    assert warm(source, f"model_warmup {{ name: 'a' batch_size: 2 {SAMPLE} }}", decoupled) == ["done", "done"]


def test_a_model_may_ask_others_meanwhile(warm: Callable[..., list[str]]) -> None:
    asked: list[str] = []

    def ask(call: ModelCall) -> Callable[[], None]:
        asked.append(call.model)
        call.reply(Reply({"y": np.ones((1, 2), np.float32)}))
        return lambda: None

    source = (
        "class M:\n    def execute(self, requests):\n        return [Response(infer('other', {})) for r in requests]\n"
    )
    warm(source, f"model_warmup {{ name: 'a' {SAMPLE} }}", ask=ask)
    assert asked == ["other"]
