"""The bodies of `POST …/infer`, for every way that answers it."""

from enginehouse.errors import NotSupported
from service.codecs.client_tensors import write_outputs
from service.codecs.json_codec import Body, OutputForm, decode_request, encode_response
from service.codecs.raw_request import decode_raw_request
from service.request import InferRequest, InferResponse
from service.server import InferenceServer


def request_from_body(
    server: InferenceServer, body: Body, header_length: int | None, model: str, version: str
) -> tuple[InferRequest, OutputForm]:
    """Decode a request; raises `Error` for a body that cannot be used, or a model that answers more than once."""
    if header_length == 0:
        config = server.model_config(model, version)
        return decode_raw_request(bytes(body), config, model, version), OutputForm(True, {})
    return decode_request(body, header_length, model, version, server.client_memory)


def refuse_decoupled(server: InferenceServer, model: str, version: str) -> None:
    """Raise `NotSupported` for a model that may answer any number of times."""
    if server.model_config(model, version).model_transaction_policy.decoupled:
        raise NotSupported(
            "HTTP end point doesn't support models with decoupled transaction policy; "
            "use generate_stream, or the stream of gRPC."
        )


def body_from_response(
    server: InferenceServer, response: InferResponse, form: OutputForm
) -> tuple[bytes, list[bytes | memoryview]]:
    """Encode an answer: its JSON, and the raw tensors behind it; raises `Error` for one that cannot be said so."""
    written = write_outputs(response.outputs, form.regions, server.client_memory)
    return encode_response(response, form, written)
