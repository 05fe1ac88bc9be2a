"""What a request asks of its answers besides the outputs, given in one place for every transport."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from enginehouse.errors import Error
from enginehouse.proto.model_config_pb2 import ModelConfig
from service.codecs.classification import check_classes, classify
from service.codecs.timing import REQUESTED_BY, timing_parameters
from service.request import InferRequest, InferResponse, Settle

_Form = Callable[[InferResponse], InferResponse]


def as_asked(request: InferRequest, settle: Settle, config: ModelConfig, labels: Mapping[str, Sequence[str]]) -> Settle:
    """Let every answer to a request pass through what it asks for: classes instead of numbers, and its timings.

    Returns:
        What the model is to settle with; the `emit` of the request is replaced in it.

    Raises:
        InvalidInput: an output has no classes; found before anything is computed.
    """
    forms: list[_Form] = []
    if request.classifications:
        check_classes(config, request.classifications)
        forms.append(_classes(request.classifications, labels, config.max_batch_size > 0))
    if request.parameters.get(REQUESTED_BY) is True:
        forms.append(_timed)
    if not forms:
        return settle

    def formed(answer: InferResponse) -> InferResponse:
        for form in forms:
            answer = form(answer)
        return answer

    emit = request.emit
    if emit is not None:
        request.emit = lambda answer: emit(formed(answer))
    return lambda answer: settle(answer if isinstance(answer, Error) else formed(answer))


def _classes(wanted: Mapping[str, int], labels: Mapping[str, Sequence[str]], is_batched: bool) -> _Form:
    def form(answer: InferResponse) -> InferResponse:
        outputs = tuple(
            classify(tensor, wanted[tensor.name], labels.get(tensor.name, ()), is_batched)
            if tensor.name in wanted
            else tensor
            for tensor in answer.outputs
        )
        return replace(answer, outputs=outputs)

    return form


def _timed(answer: InferResponse) -> InferResponse:
    return replace(answer, parameters={**answer.parameters, **timing_parameters(answer.timings)})
