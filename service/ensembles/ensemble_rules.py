"""What an ensemble's own configuration must hold, whatever its models are. The rules are Triton's."""

from collections import Counter

from enginehouse.config_rules import check_config
from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelEnsembling

PLATFORM = "ensemble"


def is_ensemble(config: ModelConfig) -> bool:
    """Whether a model has no engine of its own, by its platform or by the steps it names."""
    return config.platform == PLATFORM or config.HasField("ensemble_scheduling")


def dependencies(config: ModelConfig) -> list[str]:
    """Names of the models that a model asks, each once; nothing for a model that is no ensemble."""
    return list(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))


def complete_ensemble(config: ModelConfig) -> None:
    """Fill in what a model without an engine leaves out, and check the rest; raises `InvalidInput`."""
    check_config(config)
    check_ensemble(config)
    if config.version_policy.WhichOneof("policy_choice") is None:
        config.version_policy.latest.num_versions = 1


def check_ensemble(config: ModelConfig) -> None:
    """Check all that does not depend on the models that the ensemble is made of.

    Raises:
        InvalidInput: naming the step or the tensor that breaks a rule.
        NotSupported: a step asks for a model in a namespace.
    """
    name = config.name
    if config.platform != PLATFORM:
        raise InvalidInput(
            f"ensemble scheduling cannot be set for model '{name}' whose platform is not {PLATFORM}: "
            f"it is '{config.platform or config.backend}'."
        )
    for field, is_given in (
        ("instance_group", len(config.instance_group) > 0),
        ("optimization", config.HasField("optimization")),
        ("model_warmup", len(config.model_warmup) > 0),
    ):
        if is_given:
            raise InvalidInput(f"{field} should not be specified for ensemble '{name}'; its steps have their own.")
    if not config.ensemble_scheduling.step:
        raise InvalidInput(f"must specify 'step' for ensemble '{name}'.")
    if not config.input or not config.output:
        raise InvalidInput(
            f"ensemble '{name}' must specify at least one input and one output; "
            f"found {len(config.input)} and {len(config.output)}."
        )
    for position, step in enumerate(config.ensemble_scheduling.step):
        _check_step(name, position, step)
    _check_flow(config)


def _check_step(name: str, position: int, step: ModelEnsembling.Step) -> None:
    for field in ("model_name", "input_map", "output_map"):
        if not getattr(step, field):
            raise InvalidInput(f"must specify '{field}' in step {position} of ensemble '{name}'.")
    if step.model_namespace:
        raise NotSupported(
            f"step {position} of ensemble '{name}' names the namespace '{step.model_namespace}'; models have none here."
        )
    if step.model_name == name:
        raise InvalidInput(f"circular dependency between ensembles: {name} -> {name}.")


def _check_flow(config: ModelConfig) -> None:
    """Every tensor is written once, can be reached from the inputs, and is used."""
    name = config.name
    steps = config.ensemble_scheduling.step
    inputs = [tensor.name for tensor in config.input]
    outputs = [tensor.name for tensor in config.output]
    written = [*inputs, *(tensor for step in steps for tensor in step.output_map.values())]
    for tensor, count in Counter(written).items():
        if count > 1:
            raise InvalidInput(
                f"ensemble tensor '{tensor}' can appear in an output map only once for ensemble '{name}', "
                "and not as an input of it; it is written more than once."
            )
    if len(set(outputs)) != len(outputs):
        raise InvalidInput(f"ensemble '{name}' names an output more than once: {outputs}.")
    reached = _reached(config)
    for tensor in outputs:
        if tensor not in reached:
            raise InvalidInput(f"output '{tensor}' for ensemble '{name}' is not written by a step that can run.")
    read = {tensor for step in steps for tensor in step.input_map.values()}
    for tensor in inputs:
        if tensor not in read:
            raise InvalidInput(f"ensemble input '{tensor}' for ensemble '{name}' is not used.")
    for tensor in dict.fromkeys([*written, *sorted(read)]):
        if tensor not in reached:
            raise InvalidInput(
                f"ensemble tensor '{tensor}' is unused in ensemble '{name}': it waits for a tensor that no step "
                "writes, or for itself."
            )
        if tensor not in read and tensor not in outputs:
            raise InvalidInput(f"ensemble tensor '{tensor}' is unused in ensemble '{name}'.")


def _reached(config: ModelConfig) -> set[str]:
    """Tensors that are there in the end, whatever the order of the steps."""
    reached = {tensor.name for tensor in config.input}
    waiting = list(config.ensemble_scheduling.step)
    while ready := [step for step in waiting if reached.issuperset(step.input_map.values())]:
        for step in ready:
            waiting.remove(step)
            reached.update(step.output_map.values())
    return reached
