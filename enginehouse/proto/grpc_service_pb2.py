"""The messages of `grpc_service.proto`; their types are in the stub beside this file."""

from enginehouse.proto.pool import symbols

globals().update(symbols("grpc_service.proto"))
