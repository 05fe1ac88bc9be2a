"""Where the instances of a model run, and with how many threads each."""

from collections.abc import Sequence
from dataclasses import dataclass

from enginehouse.errors import InvalidInput, NotSupported
from enginehouse.hardware import threads_per_instance
from enginehouse.proto.model_config_pb2 import ModelConfig, ModelInstanceGroup

# Each holds a copy of the model; beyond the cores of any machine they only cost memory.
MAX_INSTANCES = 256
# Of ONNX Runtime, and of OpenVINO.
_THREADS_PARAMETERS = ("intra_op_thread_count", "INFERENCE_NUM_THREADS")
_ON_GPU = {
    ModelInstanceGroup.KIND_AUTO: None,
    ModelInstanceGroup.KIND_CPU: False,
    ModelInstanceGroup.KIND_GPU: True,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """The instances of a model.

    Attributes:
        on_gpu: of each instance, in the order of the groups; None where the configuration leaves it open.
        threads: of each instance.
    """

    on_gpu: Sequence[bool | None]
    threads: int


def placement_from_config(config: ModelConfig) -> Placement:
    """Read the instance groups; raises `NotSupported` or `InvalidInput` for what cannot be given."""
    count = sum(max(1, group.count) for group in config.instance_group)
    if count > MAX_INSTANCES:
        raise InvalidInput(
            f"model '{config.name}': instance_group asks for {count} instances; at most {MAX_INSTANCES} are allowed."
        )
    on_gpu: list[bool | None] = []
    for group in config.instance_group or [ModelInstanceGroup(count=1)]:
        on_gpu += [_device(config.name, group)] * max(1, group.count)
    return Placement(on_gpu, _threads(config, len(on_gpu)))


def _device(name: str, group: ModelInstanceGroup) -> bool | None:
    if group.kind not in _ON_GPU:
        raise NotSupported(
            f"model '{name}': instance_group kind {group.kind} is not supported; give KIND_CPU or KIND_GPU."
        )
    if any(device != 0 for device in group.gpus):
        raise NotSupported(f"model '{name}': instance_group asks for GPUs {list(group.gpus)}; only GPU 0 is used yet.")
    return True if group.gpus else _ON_GPU[group.kind]


def _threads(config: ModelConfig, instances: int) -> int:
    """The thread policy, unless the model's own parameters say otherwise."""
    for key in _THREADS_PARAMETERS:
        text = config.parameters[key].string_value if key in config.parameters else ""
        if text in ("", "0"):
            continue
        if not text.isdecimal() or int(text) < 1:
            raise NotSupported(f"model '{config.name}': {key} is '{text}'; expected 1 or more.")
        return int(text)
    return threads_per_instance(instances)
