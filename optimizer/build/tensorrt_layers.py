"""The layers of a built TensorRT engine, as the builder lists them: their types, and what each was fused from.

TensorRT and TensorRT-RTX list them in their verbose log when a build is done, without a GPU. Where a GPU lets the plan
be opened, the engine inspector lists the same fields as JSON. One line of the log:

    Name: conv_myl0_2, LayerType: correlation, Inputs: [ { Name: x, Dimensions: [-1,3], ..., Datatype: Int8, ... }],
    Constants: [ ... ], Outputs: [ ... ], TacticName: , StreamId: 0, Metadata: [ONNX Layer: conv][ONNX Layer: relu]
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

_WORDS = {
    "Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "FP8": "fp8", "FP4": "fp4", "Int8": "int8", "UInt8": "uint8",
    "Int4": "int4", "Int32": "int32", "Int64": "int64", "Bool": "bool",
}  # fmt: skip

_LAYER = re.compile(
    r"^Name: (?P<Name>.*?), LayerType: (?P<LayerType>[^,]*), Inputs: \[(?P<Inputs>.*?)\], "
    r"Constants: \[(?P<Constants>.*?)\], Outputs: \[(?P<Outputs>.*?)\], TacticName: .*, Metadata: (?P<Metadata>.*)$"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<Dimensions>[^\]]*)\].*?Datatype: (?P<Datatype>\w+)")
_SOURCE = re.compile(r"\[ONNX Layer: (?P<name>.*?)\](?=\[ONNX Layer: |\x1f|\x1e|$)")


@dataclass(frozen=True, slots=True)
class BuiltLayer:
    """One layer of an engine; types are our words for precisions.

    Attributes:
        operator: the library's word for what it does.
        inputs: types of the tensors that it reads.
        weights: type of its largest constant; empty if it has none.
        outputs: types of the tensors that it writes.
        source_nodes: the ONNX nodes it was fused from.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    weights: str
    outputs: tuple[str, ...]
    source_nodes: tuple[str, ...]


def layers_from_log(text: str) -> tuple[BuiltLayer, ...]:
    """Read the builder's list; layers that neither read nor write a tensor only synchronize and are left out."""
    matches = (_LAYER.match(line) for line in text.splitlines())
    return _real([_from_log(match) for match in matches if match])


def layers_from_inspector(text: str) -> tuple[BuiltLayer, ...]:
    """Read the inspector's JSON; empty if it lists nothing but names."""
    layers = json.loads(text).get("Layers", [])
    return _real([_from_json(layer) for layer in layers if isinstance(layer, Mapping)])


def _real(layers: Sequence[BuiltLayer]) -> tuple[BuiltLayer, ...]:
    return tuple(layer for layer in layers if layer.inputs or layer.outputs)


def _from_log(match: re.Match[str]) -> BuiltLayer:
    inputs, constants, outputs = (_TENSOR.findall(match[field]) for field in ("Inputs", "Constants", "Outputs"))
    sizes = [(_volume(dimensions.split(",")), kind) for dimensions, kind in constants]
    return BuiltLayer(
        name=match["Name"],
        operator=match["LayerType"],
        inputs=tuple(_word(kind) for _, kind in inputs),
        weights=_largest(sizes),
        outputs=tuple(_word(kind) for _, kind in outputs),
        source_nodes=_sources(match["Metadata"]),
    )


def _from_json(layer: Mapping[str, Any]) -> BuiltLayer:
    sizes = [(_volume(one["Dimensions"]), one["Datatype"]) for one in layer.get("Constants", [])]
    return BuiltLayer(
        name=layer["Name"],
        operator=layer.get("LayerType", ""),
        inputs=tuple(_word(one["Datatype"]) for one in layer.get("Inputs", [])),
        weights=_largest(sizes),
        outputs=tuple(_word(one["Datatype"]) for one in layer.get("Outputs", [])),
        source_nodes=_sources(layer.get("Metadata", "")),
    )


def _volume(dimensions: Sequence[Any]) -> int:
    return prod(int(size) for size in dimensions if str(size).strip())


def _largest(constants: Sequence[tuple[int, str]]) -> str:
    return _word(max(constants)[1]) if constants else ""


def _word(kind: str) -> str:
    return _WORDS.get(kind, kind.lower())


def _sources(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_SOURCE.findall(metadata)))
