"""Dotted paths of the fields of a configuration, such as `dynamic_batching.preserve_ordering`.

A map of plain values is one field, a map of messages is entered; `parameters` counts as a whole.
"""

from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message


def set_fields(config: Message) -> list[str]:
    """Dotted paths of what a configuration sets, in its order, each once; a message that is there but empty is one."""
    return list(dict.fromkeys(_set_fields(config, "")))


def paths_of(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Every path that a message of this kind may set, in the order of its fields."""
    for field in message.fields:
        inside = _entered(field)
        if inside is None:
            yield prefix + field.name
        else:
            yield from paths_of(inside, f"{prefix}{field.name}.")


def unknown_values(message: Message, prefix: str = "") -> Iterator[tuple[str, int, list[str]]]:
    """Numbers that an enum has no name for, which the text and the JSON format let pass: path, number, its names."""
    for field, value in message.ListFields():
        path = prefix + field.name
        if field.enum_type is not None:
            numbers = value if field.is_repeated else [value]
            names = [known.name for known in field.enum_type.values]
            yield from ((path, n, names) for n in numbers if n not in field.enum_type.values_by_number)
        elif _entered(field) is not None:
            for item in _messages(field, value):
                yield from unknown_values(item, f"{path}.")


def _set_fields(message: Message, prefix: str) -> Iterator[str]:
    for field, value in message.ListFields():
        path = prefix + field.name
        if _entered(field) is None:
            yield path
            continue
        for item in _messages(field, value):
            if item.ListFields():
                yield from _set_fields(item, f"{path}.")
            else:
                yield path


def _messages(field: FieldDescriptor, value: object) -> list[Message]:
    if not field.is_repeated:
        return [value]  # type: ignore[list-item]
    return list(value.values()) if _is_map(field) else list(value)  # type: ignore[attr-defined, call-overload]


def _entered(field: FieldDescriptor) -> Descriptor | None:
    """The message whose fields count one by one; None where the field counts as a whole."""
    if field.message_type is None or field.name == "parameters":
        return None
    inside = field.message_type.fields_by_name["value"].message_type if _is_map(field) else field.message_type
    return inside if inside is not None and inside.fields else None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
