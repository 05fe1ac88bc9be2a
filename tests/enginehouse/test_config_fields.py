"""Every field of a model configuration has a standing, and loading keeps to it."""

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from enginehouse.config_fields import BACKEND_OF_PLATFORM, FIELDS, PARAMETERS
from enginehouse.config_paths import paths_of
from enginehouse.errors import NotSupported
from enginehouse.model_config import config_from_text, refuse_unhonoured
from enginehouse.proto.model_config_pb2 import ModelConfig


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def message_in(field: Any) -> Any:
    """What a field holds: a message, also one in a map; the values of `parameters` are no more than texts."""
    if field.name == "parameters":
        return None
    return field.message_type.fields_by_name["value"].message_type if is_map(field) else field.message_type


def leaves(descriptor: Any, before: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    for field in descriptor.fields:
        inside = message_in(field)
        if inside is None or not inside.fields:
            yield (*before, field)
        else:
            yield from leaves(inside, (*before, field))


def dotted(path: tuple[FieldDescriptor, ...]) -> str:
    return ".".join(field.name for field in path)


def set_something(message: Any, field: Any) -> None:
    value: Any
    if is_map(field):
        value = field.message_type.fields_by_name["value"]
        if value.message_type is None:
            getattr(message, field.name)[key_of(field)] = "v"
        else:
            getattr(message, field.name)[key_of(field)].SetInParent()
        return
    if field.message_type is not None:
        getattr(message, field.name).SetInParent()
        return
    if field.enum_type is not None:
        value = field.enum_type.values[-1].number
    else:
        value = {FieldDescriptor.CPPTYPE_STRING: "x", FieldDescriptor.CPPTYPE_BOOL: True}.get(field.cpp_type, 1)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


DESCRIPTOR: Any = ModelConfig.DESCRIPTOR
LEAVES = {dotted(path): path for path in leaves(DESCRIPTOR)}


def child_of(message: Any, field: FieldDescriptor) -> Any:
    child = getattr(message, field.name)
    if is_map(field):
        return child[key_of(field)]
    return child.add() if field.is_repeated else child


def key_of(field: Any) -> Any:
    return "k" if field.message_type.fields_by_name["key"].cpp_type == FieldDescriptor.CPPTYPE_STRING else 1


@pytest.mark.parametrize("name", LEAVES)
def test_every_field_is_honoured_or_refused_by_name(name: str) -> None:
    config = ModelConfig(name="m")
    message: Any = config
    *parents, last = LEAVES[name]
    for parent in parents:
        message = child_of(message, parent)
    set_something(message, last)
    if FIELDS[name].standing != "refused":
        refuse_unhonoured(config)
        return
    with pytest.raises(NotSupported) as refusal:
        refuse_unhonoured(config)
    # The only value of some enums is their default: the message around it is what is seen.
    assert name.removesuffix(".kind") in str(refusal.value)


def test_the_table_knows_every_field_and_makes_up_none() -> None:
    assert set(FIELDS) == set(LEAVES)
    assert list(FIELDS) == list(paths_of(DESCRIPTOR)), "in the order of the message"


@pytest.mark.parametrize("path", FIELDS)
def test_what_is_not_as_it_is_elsewhere_says_so(path: str) -> None:
    field = FIELDS[path]
    assert field.standing == "honoured" or field.note


@pytest.mark.parametrize(
    "text",
    [
        "dynamic_batching { }",
        "dynamic_batching { default_queue_policy { } }",
        "instance_group [ { } ]",
        "optimization { }",
        "version_policy { all { } }",
    ],
)
def test_an_empty_message_asks_for_defaults(text: str) -> None:
    refuse_unhonoured(config_from_text(text, "m"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("model_repository_agents { }", "model_repository_agents"),
        ("instance_group { secondary_devices { } }", "instance_group.secondary_devices"),
    ],
)
def test_an_empty_message_of_which_nothing_is_honoured_is_refused(text: str, path: str) -> None:
    with pytest.raises(NotSupported, match=rf"does not honour {path} \(.+\) in config.pbtxt"):
        refuse_unhonoured(config_from_text(text, "m"))


def test_all_refused_fields_are_named_at_once() -> None:
    text = "runtime: 'x' model_repository_agents { agents { name: 'a' } }"
    with pytest.raises(NotSupported) as refusal:
        refuse_unhonoured(config_from_text(text, "m"))
    for name in ("runtime", "model_repository_agents.agents.name"):
        assert f"{name} ({FIELDS[name].note})" in str(refusal.value)


def test_the_fields_that_both_know_have_the_same_numbers_and_types() -> None:
    from tritonclient.grpc import model_config_pb2

    ours = {name: facts(path[-1]) for name, path in LEAVES.items()}
    theirs = {dotted(path): facts(path[-1]) for path in leaves(model_config_pb2.ModelConfig.DESCRIPTOR)}
    assert {name: ours.get(name) for name in theirs} == theirs


def facts(field: FieldDescriptor) -> tuple[object, ...]:
    return field.number, field.type, field.is_repeated


def test_a_parameter_that_means_something_elsewhere_is_refused_and_a_users_own_is_not() -> None:
    ours = config_from_text("parameters { key: 'owner' value { string_value: 'me' } }", "m")
    refuse_unhonoured(ours)
    theirs = config_from_text("parameters { key: 'ENABLE_BATCH_PADDING' value { string_value: 'YES' } }", "m")
    with pytest.raises(NotSupported, match=r"parameters\['ENABLE_BATCH_PADDING'\]"):
        refuse_unhonoured(theirs)


def test_a_parameter_means_only_what_the_models_own_backend_takes_it_for() -> None:
    assert set(BACKEND_OF_PLATFORM.values()) == set(PARAMETERS) - {"any"}
    parameter = "parameters { key: 'ENABLE_BATCH_PADDING' value { string_value: 'YES' } }"
    for platform, backend in BACKEND_OF_PLATFORM.items():
        for given in (f"platform: '{platform}'", f"backend: '{backend}'"):
            config = config_from_text(f"{given} {parameter}", "m")
            if backend == "openvino":
                with pytest.raises(NotSupported, match="ENABLE_BATCH_PADDING"):
                    refuse_unhonoured(config)
            else:
                refuse_unhonoured(config)
