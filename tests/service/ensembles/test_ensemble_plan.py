import pytest

from enginehouse.errors import InvalidInput
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.ensembles.ensemble_plan import EnsemblePlan, plan_from_config
from tests.service.fake_steps import FakeSteps, ensemble_config, step_config, step_text

DECOUPLED = "model_transaction_policy { decoupled: true }"
CHAIN = [step_text("a", {"x": "in"}, {"y": "p"}), step_text("b", {"x": "p"}, {"y": "out"})]


def plan(config: ModelConfig, *models: ModelConfig) -> EnsemblePlan:
    return plan_from_config(config, FakeSteps().add(*models).config_of)


def test_only_the_steps_that_an_output_needs_are_on_its_route() -> None:
    steps = [
        step_text("a", {"x": "in"}, {"y": "p"}),
        step_text("b", {"x": "p"}, {"y": "left"}),
        step_text("c", {"x": "p"}, {"y": "right"}),
    ]
    made = plan(ensemble_config(steps, outputs=("left", "right")), *map(step_config, "abc"))
    assert made.route(()).takers == {"in": (0,), "p": (1, 2)}
    assert made.route(()).uses == {"in": 1, "p": 2, "left": 1, "right": 1}
    only = made.route(["right"])
    assert only.takers == {"in": (0,), "p": (2,)}
    assert [result.name for result in only.results] == ["right"]
    assert [result.name for result in made.route(["right", "left"]).results] == ["right", "left"]


def test_minus_one_is_the_newest_version_and_a_number_is_itself() -> None:
    steps = [step_text("a", {"x": "in"}, {"y": "p"}, 1), step_text("b", {"x": "p"}, {"y": "out"}, -1)]
    made = plan(ensemble_config(steps), *map(step_config, "ab"))
    assert [step.model_version for step in made.steps] == ["1", ""]
    steps = [step_text("a", {"x": "in"}, {"y": "out"}, 7)]
    with pytest.raises(InvalidInput, match="models that are not available: 'a' version '7'"):
        plan(ensemble_config(steps), step_config("a"))


@pytest.mark.parametrize(
    ("config", "models", "reason"),
    [
        (ensemble_config(CHAIN), [step_config("a")], "contains models that are not available: 'b'"),
        (
            ensemble_config(CHAIN, more="max_batch_size: 8"),
            [step_config("a", more="max_batch_size: 8"), step_config("b", more="max_batch_size: 4")],
            "allows maximum batch size 8, but it contains model 'b' which only allows maximum batch size to be 4",
        ),
        (
            ensemble_config(CHAIN),
            [step_config("a", outputs=("z",)), step_config("b")],
            "'p' is mapped from non-existing output 'y' in model 'a'; it has \\['z'\\]",
        ),
        (
            ensemble_config(CHAIN),
            [step_config("a"), step_config("b", inputs=("z",))],
            "'p' is mapping to non-existing input 'x' in model 'b'; it has \\['z'\\]",
        ),
        (
            ensemble_config(CHAIN),
            [step_config("a"), step_config("b", inputs=("x", "z"))],
            "input 'z' in model 'b' is not mapped to any ensemble tensors",
        ),
        (
            ensemble_config(CHAIN),
            [step_config("a"), step_config("b", dtype="TYPE_FP32")],
            "'p': inconsistent data type: TYPE_UINT8 is inferred from model 'a' while TYPE_FP32",
        ),
        (
            ensemble_config(CHAIN, dims="5"),
            [step_config("a"), step_config("b", dims="4")],
            "'out': inconsistent shape: \\[4\\] is inferred from model 'b' while \\[5\\] is inferred from model 'e'",
        ),
    ],
)
def test_steps_that_do_not_fit_are_named(config: ModelConfig, models: list[ModelConfig], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        plan(config, *models)


def test_an_optional_input_need_not_be_mapped() -> None:
    model = step_config("b", inputs=("x", "z"))
    model.input[1].optional = True
    plan(ensemble_config(CHAIN), step_config("a"), model)


def test_what_follows_a_decoupled_step_runs_once_for_each_of_its_answers() -> None:
    made = plan(ensemble_config(CHAIN), step_config("a", more=DECOUPLED), step_config("b"))
    assert made.is_decoupled
    assert [(step.scope, step.opens) for step in made.steps] == [(0, 1), (1, 1)]
    assert made.result_scope == 1
    assert not plan(ensemble_config(CHAIN), step_config("a"), step_config("b")).is_decoupled


def test_inputs_of_one_step_must_come_equally_often() -> None:
    steps = [step_text("a", {"x": "in"}, {"y": "p"}), step_text("b", {"x": "p", "z": "in"}, {"y": "out"})]
    models = [step_config("a", more=DECOUPLED), step_config("b", inputs=("x", "z"))]
    with pytest.raises(InvalidInput, match="step of model 'b' receives inputs originated from different decoupled"):
        plan(ensemble_config(steps), *models)
    steps = [step_text("a", {"x": "in"}, {"y": "out"}), step_text("b", {"x": "in"}, {"y": "more"})]
    models = [step_config("a", more=DECOUPLED), step_config("b")]
    with pytest.raises(InvalidInput, match="the ensemble's response receives inputs originated from different"):
        plan(ensemble_config(steps, outputs=("out", "more")), *models)
