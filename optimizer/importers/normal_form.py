"""The one form in which every step meets a model, however old its file is."""

import onnx

from optimizer.graph.graph import Graph
from optimizer.graph.nodes import DEFAULT_DOMAINS
from optimizer.graph.shapes import infer_shapes

_OLDEST_IR_WITH_PLAIN_WEIGHTS = 4
# ONNX infers their shapes through their bodies, and forgets there what is left to a default.
_DEFAULTS = {"MeanVarianceNormalization": {"axes": (0, 2, 3)}}


def normal_form(graph: Graph) -> Graph:
    """Give the outputs the shapes that can be inferred, and take the weights out of the list of inputs.

    Before IR 4 every weight had to be listed there, and the tools of today stumble over it.

    Raises:
        onnx.shape_inference.InferenceError: shapes or types contradict each other.
    """
    model = graph.copy()
    _write_defaults(model.graph)
    inferred = infer_shapes(model, is_strict=True)
    fed = {spec.name for spec in graph.inputs}
    inputs = [value for value in graph.model.graph.input if value.name in fed]
    del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.input.extend(inputs)
    model.graph.output.extend(inferred.graph.output)
    model.graph.value_info.extend(inferred.graph.value_info)
    model.ir_version = max(model.ir_version, _OLDEST_IR_WITH_PLAIN_WEIGHTS)
    return Graph(model)


def _write_defaults(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.domain not in DEFAULT_DOMAINS:
            continue
        given = {attribute.name for attribute in node.attribute}
        for name, value in _DEFAULTS.get(node.op_type, {}).items():
            if name not in given:
                node.attribute.append(onnx.helper.make_attribute(name, value))
