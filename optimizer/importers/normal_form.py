"""The one form in which every step meets a model, however old its file is."""

from optimizer.graph.graph import Graph
from optimizer.graph.shapes import infer_shapes

_OLDEST_IR_WITH_PLAIN_WEIGHTS = 4


def normal_form(graph: Graph) -> Graph:
    """Give the outputs the shapes that can be inferred, and take the weights out of the list of inputs.

    Before IR 4 every weight had to be listed there, and the tools of today stumble over it.

    Raises:
        onnx.shape_inference.InferenceError: shapes or types contradict each other.
    """
    inferred = infer_shapes(graph.model, is_strict=True)
    fed = {spec.name for spec in graph.inputs}
    inputs = [value for value in graph.model.graph.input if value.name in fed]
    model = graph.copy()
    del model.graph.input[:], model.graph.output[:], model.graph.value_info[:]
    model.graph.input.extend(inputs)
    model.graph.output.extend(inferred.graph.output)
    model.graph.value_info.extend(inferred.graph.value_info)
    model.ir_version = max(model.ir_version, _OLDEST_IR_WITH_PLAIN_WEIGHTS)
    return Graph(model)
