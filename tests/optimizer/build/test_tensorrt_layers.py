"""Layers as the builder's log lists them, and as the inspector does."""

import json

from optimizer.build.tensorrt_layers import BuiltLayer, layers_from_inspector, layers_from_log
from tests.tensorrt_builder_fakes import LAYERS

LOG = """Layers:
Name: shapes_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: \
\nName: a+b_myl0_2, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,64], Strides: [64,1], Datatype: Int8, \
Format: (Linear) Row major linear format }, { Name: r, Dimensions: [-1,8], Datatype: Float, Format: (NHWC) \
Channel major format }], Constants: [ { Name: alpha, Dimensions: [1], Datatype: Float, Format: (Linear) f }, \
{ Name: w, Dimensions: [64,8], Datatype: Int8, Format: (Linear) f }, { Name: s, Dimensions: [], Datatype: Half, \
Format: (Linear) f }], Outputs: [ { Name: y, Dimensions: [-1,8], Datatype: BFloat16, Format: (Linear) f }], \
TacticName: kernel, StreamId: 0, Metadata: [ONNX Layer: /layer.0/MatMul[a]][ONNX Layer: Relu_1][ONNX Layer: Relu_1]
Name: wait_3, LayerType: wait, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, \
EventId: 2, Metadata: \


I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [-1,64], Location: Device
"""


def test_a_line_of_the_log_tells_types_the_largest_constant_and_what_was_fused() -> None:
    assert layers_from_log(LOG) == (
        BuiltLayer(
            name="a+b_myl0_2",
            operator="gemm",
            inputs=("int8", "fp32"),
            weights="int8",
            outputs=("bf16",),
            source_nodes=("/layer.0/MatMul[a]", "Relu_1"),
        ),
    )


def test_the_inspector_tells_the_same() -> None:
    assert layers_from_inspector(json.dumps({"Layers": LAYERS})) == (
        BuiltLayer("fused_conv", "correlation", ("fp16",), "fp16", ("fp16",), ("mm", "relu")),
    )


def test_an_inspector_that_lists_names_only_lists_nothing() -> None:
    assert layers_from_inspector(json.dumps({"Layers": ["fused_conv"]})) == ()


def test_a_log_without_layers_lists_nothing() -> None:
    assert layers_from_log("Layers:\n") == ()
