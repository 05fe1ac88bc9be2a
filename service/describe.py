"""What the server says about itself and its models, in the protocol's own messages; transports only render them."""

from google.protobuf.message import Message

from enginehouse.model_config import input_specs, output_specs
from enginehouse.proto.grpc_service_pb2 import (
    InferBatchStatistics,
    ModelMetadataResponse,
    ModelStatistics,
    RepositoryIndexResponse,
    StatisticDuration,
)
from enginehouse.tensor import TensorSpec
from service.registry import READY, Registry
from service.served import Served
from service.statistics.duration import Duration


def model_metadata(model: Served, versions: list[int]) -> ModelMetadataResponse:
    """Name, versions that answer, platform, and tensors with their full shapes."""
    return ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in versions],
        platform=model.config.platform,
        inputs=[_tensor(spec) for spec in input_specs(model.config)],
        outputs=[_tensor(spec) for spec in output_specs(model.config)],
    )


def model_statistics(model: Served) -> ModelStatistics:
    """Counters since the version was first loaded: in all, per batch size that ran, and per place of a response."""
    counted = model.statistics
    answer = ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
    )
    _copy_durations(answer.inference_stats, counted)
    for rows, batch in sorted(counted.batches.items()):
        answer.batch_stats.append(
            InferBatchStatistics(
                batch_size=rows,
                compute_input=_duration(batch.compute_input),
                compute_infer=_duration(batch.compute_infer),
                compute_output=_duration(batch.compute_output),
            )
        )
    for place, counts in counted.responses.places():
        _copy_durations(answer.response_stats[str(place)], counts)
    return answer


def repository_index(registry: Registry, names: list[str], only_ready: bool) -> RepositoryIndexResponse:
    """One row per version that was ever asked for; models that never were have one row without version and state."""
    answer = RepositoryIndexResponse()
    for name in sorted(set(names) | set(registry.names())):
        states = registry.states(name)
        for version, state in states.items():
            if state.state == READY or not only_ready:
                answer.models.add(name=name, version=str(version), state=state.state, reason=state.reason)
        if not states and not only_ready:
            answer.models.add(name=name)
    return answer


def _tensor(spec: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.dtype.name, shape=spec.shape)


def _copy_durations(message: Message, counted: object) -> None:
    """Fill each field of a message from the duration of its name."""
    for field in message.DESCRIPTOR.fields:
        getattr(message, field.name).CopyFrom(_duration(getattr(counted, field.name)))


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=duration.nanoseconds)
