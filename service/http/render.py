"""Protocol messages and errors as HTTP answers."""

import math
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response
from google.protobuf.message import Message

from enginehouse.errors import Error
from service.status import status_of

RETRY_AFTER_SECONDS = 1


class JsonResponse(Response):
    """JSON under exactly `application/json`, which one client compares letter by letter."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def done_response() -> Response:
    """Nothing to say but that it is done. Some clients never read this body: with one, they would lose connections."""
    return Response(b"", media_type="application/json")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JsonResponse:
    """The one form of every error body; a busy server says when to come back."""
    more = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
    return JsonResponse({"error": message}, status_code=status, headers={**more, **(headers or {})})


def response_from_error(error: Error, headers: Mapping[str, str] | None = None) -> JsonResponse:
    return error_response(status_of(error).http, str(error), {**retry_after(error), **(headers or {})})


def retry_after(error: Error) -> dict[str, str]:
    """The header that says when to come back, for an error that passes."""
    seconds = getattr(error, "retry_after_seconds", None)
    if seconds is not None:
        # The header counts in whole seconds; to come back a little late is better than to be refused again.
        return {"Retry-After": str(math.ceil(seconds))}
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status_of(error).http == 503 else {}


def json_from_message(message: Message) -> dict[str, Any]:
    """A message as the REST form spells it: field names as in the proto, numbers as numbers, enums by name."""
    answer: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is not None and not field.is_repeated and not message.HasField(field.name):
            continue
        if field.containing_oneof is not None and not message.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            answer[field.name] = {str(key): _json_from_value(item, field) for key, item in value.items()}
        elif field.is_repeated:
            answer[field.name] = [_json_from_value(item, field) for item in value]
        else:
            answer[field.name] = _json_from_value(value, field)
    return answer


def _json_from_value(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return json_from_message(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode(errors="replace") if isinstance(value, bytes) else value
