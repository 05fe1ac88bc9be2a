import pytest

from enginehouse.errors import InvalidInput, NotReady
from service.ensembles.ensemble_binding import EnsembleBinding
from tests.service.fake_steps import FakeSteps, ensemble_config, step_config, step_text

DECOUPLED = "model_transaction_policy { decoupled: true }"
CHAIN = [step_text("a", {"x": "in"}, {"y": "p"}), step_text("b", {"x": "p"}, {"y": "out"})]


def bind(steps: FakeSteps, more: str = "") -> EnsembleBinding:
    return EnsembleBinding(ensemble_config(CHAIN, more=more), {}, steps.resolve)


def test_the_plan_stays_while_its_models_do() -> None:
    binding = bind(FakeSteps().add(*map(step_config, "ab")))
    plan = binding.plan
    binding.hold()
    assert binding.plan is plan


def test_a_step_that_was_loaded_again_is_looked_at_again() -> None:
    steps = FakeSteps().add(*map(step_config, "ab"))
    binding = bind(steps, DECOUPLED)
    assert not binding.config.model_transaction_policy.decoupled
    steps.add(step_config("b", more=DECOUPLED))
    binding.hold()
    assert binding.plan.is_decoupled
    assert binding.config.model_transaction_policy.decoupled


def test_a_step_that_does_not_fit_any_more_keeps_requests_out_until_it_does() -> None:
    steps = FakeSteps().add(*map(step_config, "ab"))
    binding = bind(steps)
    for other in (step_config("b", dtype="TYPE_FP32"), None):
        steps.configs.pop("b")
        steps.add(*([other] if other else []))
        for _ in range(2):
            with pytest.raises(NotReady, match="ensemble 'e' cannot answer now: "):
                binding.hold()
    steps.add(step_config("b"))
    binding.hold()


def test_what_cannot_be_planned_at_first_is_an_error_of_the_configuration() -> None:
    with pytest.raises(InvalidInput, match="contains models that are not available"):
        bind(FakeSteps().add(step_config("a")))
    decoupled = FakeSteps().add(step_config("a", more=DECOUPLED), step_config("b"))
    with pytest.raises(InvalidInput, match="response_cache cannot be enabled for a decoupled model"):
        bind(decoupled, "response_cache { enable: true }")


def test_classes_are_called_what_the_ensemble_calls_them_or_else_the_step_that_gives_them() -> None:
    steps = FakeSteps().add(*map(step_config, "ab"))
    steps.labels = {"a": {"y": ["hidden"]}, "b": {"y": ["cat", "dog"]}}
    assert bind(steps).labels["out"] == ["cat", "dog"]
    own = EnsembleBinding(ensemble_config(CHAIN), {"out": ["Katze"]}, steps.resolve)
    assert own.labels["out"] == ["Katze"]
