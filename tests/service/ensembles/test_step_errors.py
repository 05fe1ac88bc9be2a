import pytest

from enginehouse.errors import EngineFailed, Error, MissingExtra, NotReady, Overloaded
from service.ensembles.step_errors import in_ensemble, in_step


def test_an_error_that_names_its_step_is_left_as_it_is() -> None:
    reason = EngineFailed("the engine of 'b' burned out.")
    assert in_step("b", reason) is reason


@pytest.mark.parametrize("reason", [NotReady("not now."), MissingExtra("openvino", "openvino", "running it")])
def test_a_step_and_an_ensemble_are_named_and_the_error_stays_of_its_kind(reason: Error) -> None:
    told = in_ensemble("e", in_step("b", reason))
    assert type(told) is type(reason)
    assert str(told) == f"in ensemble 'e', {reason} (step 'b')"


def test_what_an_error_carries_besides_its_text_stays() -> None:
    told = in_ensemble("e", Overloaded("the queue is full.", retry_after_seconds=3.0))
    assert isinstance(told, Overloaded)
    assert told.retry_after_seconds == 3.0
