"""A fake of the documented names with which a TensorRT library builds a plan; it records what it was told."""

import json
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx

from tests.tensorrt_fakes import FakeCuda, FakeLogger, fake_library, fake_plan

LAYERS = [
    {
        "Name": "fused_conv",
        "LayerType": "correlation",
        "Inputs": [{"Name": "x", "Dimensions": [-1, 3], "Datatype": "Half"}],
        "Constants": [{"Name": "w", "Dimensions": [3, 3], "Datatype": "Half"}],
        "Outputs": [{"Name": "y", "Dimensions": [-1, 3], "Datatype": "Half"}],
        "Metadata": "[ONNX Layer: mm][ONNX Layer: relu]",
    }
]


class Told:
    """What the builder was told, and what it shall do."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.cleared: list[str] = []
        self.level: Any = None
        self.profiles: list[dict[str, Any]] = []
        self.caches_read: list[bytes] = []
        self.refuses_cache = False
        self.has_builder = True
        self.builds = True
        self.layers: list[dict[str, Any]] = LAYERS
        self.targets: dict[int, str] = {}
        self.plan: bytes | None = None


def fake_tensorrt(cuda: FakeCuda, told: Told, name: str = "tensorrt") -> ModuleType:
    """The module `tensorrt` of release 11: strongly typed only, for the GPU that is there; or `tensorrt_rtx`."""
    module = fake_library(name, cuda)
    names: dict[str, Any] = {
        "NetworkDefinitionCreationFlag": IntEnum("NetworkDefinitionCreationFlag", ["OTHER"]),
        "ProfilingVerbosity": IntEnum("ProfilingVerbosity", ["NONE", "DETAILED"]),
        "BuilderFlag": IntEnum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE"]),
        "HardwareCompatibilityLevel": IntEnum("HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS"]),
        "ComputeCapability": IntEnum("ComputeCapability", ["CURRENT", "SM75", "SM86", "SM120"]),
        "LayerInformationFormat": IntEnum("LayerInformationFormat", ["ONELINE", "JSON"]),
    }
    for key, value in names.items():
        setattr(module, key, value)
    module.Builder = lambda log: _Builder(log, cuda, told)  # type: ignore[attr-defined]
    module.OnnxParser = _Parser  # type: ignore[attr-defined]
    return module


class _Builder:
    def __init__(self, log: FakeLogger, cuda: FakeCuda, told: Told) -> None:
        if not told.has_builder:
            log.error("no device")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._log, self._cuda, self._told = log, cuda, told

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 0
        network = SimpleNamespace(inputs=[], num_inputs=0)
        network.get_input = lambda index: network.inputs[index]
        return network

    def create_builder_config(self) -> "_Config":
        return _Config(self._told)

    def create_optimization_profile(self) -> "_Profile":
        return _Profile()

    def build_serialized_network(self, network: Any, config: "_Config") -> bytes | None:
        assert network.inputs
        assert config.is_told_shapes
        if not self._told.builds:
            self._log.error("Error Code 10: no implementation")
            return None
        return self._told.plan or fake_plan(".".join(map(str, self._cuda.capability)), layers=self._told.layers)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, *shapes: Any) -> None:
        self.shapes[name] = shapes


class _Config:
    def __init__(self, told: Told) -> None:
        self._told = told
        self._cache = b""

    @property
    def is_told_shapes(self) -> bool:
        return bool(self._told.profiles)

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._told.level

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        self._told.level = level

    def set_compute_capability(self, capability: Any, index: int) -> None:
        self._told.targets[index] = capability.name

    def set_flag(self, flag: Any) -> None:
        self._told.flags.append(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._told.cleared.append(flag.name)

    def add_optimization_profile(self, profile: _Profile) -> None:
        self._told.profiles.append(profile.shapes)

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache and self._told.refuses_cache:
            return False
        self._told.caches_read.append(cache)
        self._cache = cache
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: self._cache + b"measured;")


class _Parser:
    """Takes every graph but one with an operator `Det`."""

    def __init__(self, network: Any, log: FakeLogger) -> None:
        self._network, self._log = network, log
        self._refused: list[onnx.NodeProto] = []

    @property
    def num_errors(self) -> int:
        return len(self._refused)

    def get_error(self, index: int) -> SimpleNamespace:
        node = self._refused[index]
        return SimpleNamespace(
            node_name=lambda: node.name,
            node_operator=lambda: node.op_type,
            desc=lambda: "false",
            code=lambda: SimpleNamespace(name="UNSUPPORTED_NODE"),
        )

    def parse_from_file(self, path: str) -> bool:
        model = onnx.load_model(path)
        self._network.inputs = [SimpleNamespace(name=value.name, is_shape_tensor=False) for value in model.graph.input]
        self._network.num_inputs = len(self._network.inputs)
        return self.supports_model_v2(Path(path).read_bytes(), path)

    def supports_model_v2(self, data: bytes, path: str) -> bool:
        assert json.dumps(path)
        self._refused = [node for node in onnx.load_model_from_string(data).graph.node if node.op_type == "Det"]
        return not self._refused
