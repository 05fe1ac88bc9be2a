from service import refusals


def test_the_words_that_clients_of_triton_look_for_are_there() -> None:
    assert str(refusals.not_ready("m", "2")) == "Request for unknown model: 'm' version 2 is not at ready state"
    assert "Request timeout expired" in str(refusals.came_too_late("m"))
    assert str(refusals.waited_too_long("m", 0.0126)) == "model 'm': Request timeout expired after 13 ms in queue."


def test_a_caller_is_told_which_model_it_was() -> None:
    assert str(refusals.cancelled("m")) == "the request to model 'm' was cancelled."
    assert str(refusals.stopped("m", "2")) == "model 'm' version 2 was stopped before it could answer."
