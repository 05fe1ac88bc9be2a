import pytest

from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.ensembles.ensemble_rules import check_ensemble, complete_ensemble, dependencies, is_ensemble
from tests.service.fake_steps import ensemble_config, step_config, step_text

ONE = step_text("a", {"x": "in"}, {"y": "out"})


def test_the_models_of_an_ensemble_are_named_once_each_and_others_have_none() -> None:
    steps = [
        step_text("a", {"x": "in"}, {"y": "p"}),
        step_text("b", {"x": "p"}, {"y": "q"}),
        step_text("a", {"x": "q"}, {"y": "out"}),
    ]
    assert dependencies(ensemble_config(steps)) == ["a", "b"]
    assert dependencies(step_config("a")) == []


def test_an_ensemble_is_told_by_its_platform_or_by_its_steps() -> None:
    assert is_ensemble(ModelConfig(platform="ensemble"))
    assert is_ensemble(ensemble_config([ONE]))
    assert not is_ensemble(step_config("a"))


def test_a_complete_ensemble_serves_its_newest_version() -> None:
    config = ensemble_config([ONE])
    complete_ensemble(config)
    assert config.version_policy.latest.num_versions == 1


@pytest.mark.parametrize(
    ("more", "dims", "reason"),
    [("max_batch_size: -1", "3", "max_batch_size is -1"), ("", "0", r"input 'in' has dims \[0\]")],
)
def test_the_rules_of_every_model_hold_for_an_ensemble(more: str, dims: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        complete_ensemble(ensemble_config([ONE], more=more, dims=dims))


def test_the_order_of_the_steps_does_not_matter() -> None:
    check_ensemble(ensemble_config([step_text("b", {"x": "p"}, {"y": "out"}), step_text("a", {"x": "in"}, {"y": "p"})]))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ensemble_config([]), "must specify 'step' for ensemble 'e'"),
        (ensemble_config(['step { model_name: "a" }']), "must specify 'input_map' in step 0 of ensemble 'e'"),
        (ensemble_config([step_text("", {"x": "in"}, {"y": "out"})]), "must specify 'model_name' in step 0"),
        (ensemble_config([step_text("a", {"x": "in"}, {})]), "must specify 'output_map' in step 0"),
        (ensemble_config([ONE], more="instance_group { count: 1 }"), "instance_group should not be specified"),
        (ensemble_config([ONE], more="optimization { priority: PRIORITY_MAX }"), "optimization should not be"),
        (ensemble_config([ONE], more="model_warmup { }"), "model_warmup should not be specified"),
        (ensemble_config([step_text("e", {"x": "in"}, {"y": "out"})]), "circular dependency between ensembles: e -> e"),
        (ensemble_config([ONE], inputs=()), "at least one input"),
        (ensemble_config([ONE], inputs=("in", "idle")), "ensemble input 'idle' for ensemble 'e' is not used"),
        (ensemble_config([ONE], outputs=("out", "more")), "output 'more' for ensemble 'e' is not written"),
        (ensemble_config([ONE], outputs=("out", "out")), "names an output more than once"),
        (
            ensemble_config([ONE, step_text("b", {"x": "in"}, {"y": "out"})]),
            "ensemble tensor 'out' can appear in an output map only once",
        ),
        (
            ensemble_config([step_text("a", {"x": "in"}, {"y": "in", "z": "out"})]),
            "ensemble tensor 'in' can appear in an output map only once",
        ),
        (
            ensemble_config([step_text("a", {"x": "in"}, {"y": "out", "z": "spare"})]),
            "ensemble tensor 'spare' is unused in ensemble 'e'",
        ),
        (
            ensemble_config([ONE, step_text("b", {"x": "nowhere"}, {"y": "lost"})]),
            "ensemble tensor 'lost' is unused in ensemble 'e': it waits",
        ),
        (
            ensemble_config(
                [ONE, step_text("b", {"x": "q"}, {"y": "p"}), step_text("c", {"x": "p"}, {"y": "q"})],
            ),
            "ensemble tensor 'p' is unused in ensemble 'e': it waits for a tensor that no step writes, or for itself",
        ),
    ],
)
def test_a_broken_rule_is_named(config: ModelConfig, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        check_ensemble(config)


def test_steps_without_the_platform_are_refused() -> None:
    config = ensemble_config([ONE])
    config.platform = "onnxruntime_onnx"
    with pytest.raises(InvalidInput, match="whose platform is not ensemble: it is 'onnxruntime_onnx'"):
        check_ensemble(config)


def test_what_is_not_there_is_refused_by_name() -> None:
    config = ensemble_config([ONE])
    config.ensemble_scheduling.step[0].model_namespace = "there"
    with pytest.raises(NotSupported, match="names the namespace 'there'"):
        check_ensemble(config)


def test_a_reshape_must_keep_the_number_of_elements() -> None:
    config = ensemble_config([ONE], dims="4")
    config.input[0].reshape.shape.extend((2, 2))
    complete_ensemble(config)
    config.output[0].reshape.shape.extend((3, 2))
    with pytest.raises(InvalidInput, match=r"output 'out' has dims \[4\], which cannot be reshaped to \[3, 2\]"):
        complete_ensemble(config)
