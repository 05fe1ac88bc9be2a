"""The messages of `model_config.proto`; their types are in the stub beside this file."""

from enginehouse.proto.pool import symbols

globals().update(symbols("model_config.proto"))
