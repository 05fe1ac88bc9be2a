"""Message classes in a descriptor pool of their own.

The protos of `tritonclient`, of `kserve` and ours share the package name `inference` but not every field, so in the
default pool whoever is imported second fails. In a private pool all of them live in one process.
"""

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper


def _build_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    described = resources.files("enginehouse.proto").joinpath("inference.binpb").read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(described).file:
        pool.Add(file)
    return pool


POOL = _build_pool()


def symbols(file_name: str) -> dict[str, Any]:
    """Everything that generated code for one `.proto` file would define at its top level."""
    file = POOL.FindFileByName(file_name)
    found: dict[str, Any] = {"DESCRIPTOR": file}
    for name, enum in file.enum_types_by_name.items():
        found[name] = EnumTypeWrapper(enum)
        found.update({value.name: value.number for value in enum.values})
    for name, message in file.message_types_by_name.items():
        found[name] = message_factory.GetMessageClass(message)
    return found
