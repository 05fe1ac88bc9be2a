import pytest

from optimizer.trial import Trial


@pytest.mark.parametrize(
    ("trial", "name"),
    [
        (Trial(), "fp32"),
        (Trial(precision="int8", scheme="u8s8"), "int8"),
        (Trial(engine="openvino", precision="int8", scheme="s8s8", hint="bf16"), "openvino int8 s8s8 + bf16"),
        (Trial(engine="openvino", precision="fp16", hint="f16"), "openvino fp16"),
        (
            Trial(precision="int8", scheme="u8s8", calibrator="per_tensor", repairs=("bias_correction",)),
            "int8, per_tensor, bias_correction",
        ),
        (Trial(precision="int8", scheme="u8s8", layers={"a": "fp32"}), "int8, 1 layer fp32"),
        (Trial(precision="int8", scheme="u8s8", layers={"a": "fp32", "b": "int4"}), "int8, 2 layers fp32/int4"),
    ],
)
def test_a_trial_is_named_by_what_sets_it_apart(trial: Trial, name: str) -> None:
    assert str(trial) == name


def test_the_same_trial_has_the_same_address_whatever_order_its_layers_came_in() -> None:
    first = Trial(precision="int8", layers={"a": "fp32", "b": "fp32"})
    second = Trial(precision="int8", layers={"b": "fp32", "a": "fp32"})
    assert first.key({"data": "d"}) == second.key({"data": "d"})


@pytest.mark.parametrize(
    "change",
    [{"engine": "openvino"}, {"scheme": "s8s8"}, {"calibrator": "mse"}, {"hint": "bf16"}, {"layers": {"a": "fp32"}}],
)
def test_whatever_decides_the_engine_decides_its_address(change: dict[str, object]) -> None:
    trial = Trial(precision="int8", scheme="u8s8")
    assert trial.key({}) != Trial.model_validate({**trial.model_dump(), **change}).key({})
    assert trial.key({}) != trial.key({"data": "other"})


def test_a_layer_has_the_precision_of_the_trial_unless_it_is_an_exception() -> None:
    trial = Trial(precision="int8", layers={"a": "fp32"})
    assert (trial.precision_of("a"), trial.precision_of("b")) == ("fp32", "int8")
