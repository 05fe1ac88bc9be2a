"""What is kept of a version follows from the server's options and from what it was calibrated on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from enginehouse.config_completion import complete_config, complete_platform
from enginehouse.fake_engine import FakeEngine
from enginehouse.model_config import config_from_text
from service.clock import FakeClock
from service.loaded import LoadedVersion
from service.loading.assembly import Surroundings, serve_version
from service.metrics.metrics_options import MetricsOptions
from service.request import InferRequest
from service.served_model import ServedModel
from tests.service import sequence_bench as sequences
from tests.service.conftest import BATCHED, Answers, X, Y, make_request, stay_inline, tenfold

EVERYTHING = MetricsOptions(has_histograms=True, has_summaries=True)


@contextmanager
def served(
    surroundings: Surroundings, calibrated: Mapping[str, tuple[float, float]], is_sequence: bool = False
) -> Iterator[ServedModel]:
    config = config_from_text(sequences.config() if is_sequence else BATCHED, "m")
    inputs, outputs = (sequences.INPUTS, (Y, sequences.NEW_SUM)) if is_sequence else ((X,), (Y,))
    complete_platform(config, ["model.onnx"])
    complete_config(config, inputs, outputs)
    engine = FakeEngine(inputs, outputs, sequences.accumulate if is_sequence else tenfold)
    model = serve_version(LoadedVersion(config, 1, Path(), [engine], 0.5, calibrated=calibrated), surroundings)
    assert isinstance(model, ServedModel)
    for instance in model._instances:
        stay_inline(instance)
    yield model
    model.close()


def ask(model: ServedModel, clock: FakeClock, request: InferRequest) -> None:
    answers = Answers()
    model.infer(request, answers.settle("a"))
    clock.run_ready()
    assert answers.values("a")


@pytest.mark.parametrize("is_sequence", [False, True])
def test_what_comes_to_a_calibrated_version_is_watched(is_sequence: bool) -> None:
    clock = FakeClock()
    with served(Surroundings(clock), {"x": (0.0, 1.0)}, is_sequence) as model:
        ask(model, clock, sequences.step(7, 9.0, "s") if is_sequence else make_request([9.0]))
        drift = model.statistics.drift
        assert drift is not None
        assert drift.shares() == {"x": 1.0}


def test_a_version_that_comes_again_is_watched_anew_or_no_more() -> None:
    clock = FakeClock()
    surroundings = Surroundings(clock)
    with served(surroundings, {"x": (0.0, 1.0)}) as narrow:
        ask(narrow, clock, make_request([9.0]))
    with served(surroundings, {"x": (0.0, 10.0)}) as wide:
        ask(wide, clock, make_request([9.0]))
        assert wide.statistics.drift is not None
        assert wide.statistics.drift.shares() == {"x": 0.0}
    with served(surroundings, {}) as last:
        assert last.statistics.drift is None


def test_summaries_and_first_responses_are_kept_on_request_and_across_a_reload() -> None:
    clock = FakeClock()
    with served(Surroundings(clock), {}) as plain:
        assert (plain.statistics.summaries, plain.statistics.first_response) == (None, None)
    surroundings = Surroundings(clock, metrics=EVERYTHING)
    with served(surroundings, {}) as first:
        ask(first, clock, make_request([1.0]))
        histogram = first.statistics.first_response
    with served(surroundings, {}) as again:
        assert again.statistics.summaries is not None
        assert again.statistics.summaries.request.count == 1
        assert histogram is not None
        assert again.statistics.first_response is histogram
