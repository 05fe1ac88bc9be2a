import onnx
import pytest

from enginehouse.errors import Unsupported
from optimizer.graph.graph import Graph
from optimizer.graph.interface import keep_interface


def _graph(text: str) -> Graph:
    return Graph(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}'))


SOURCE = "(float[N,2] x) => (float[N,M] y) { y = Relu(x) }"


def test_declaration_of_the_source_is_restored() -> None:
    kept = keep_interface(_graph(SOURCE), _graph(SOURCE.replace("[N,M]", "[N,2]").replace("[N,2] x", "[K,2] x")))
    assert kept.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert kept.outputs == _graph(SOURCE).outputs


@pytest.mark.parametrize(
    "text",
    [
        SOURCE.replace("x", "z"),
        SOURCE.replace("float[N,M]", "double[N,M]"),
        SOURCE.replace("[N,2]", "[N,3]"),
        SOURCE.replace("[N,M]", "[N]"),
        "(float[N,2] x, float[N] more) => (float[N,M] y) { y = Relu(x) }",
        "(float[N,2] x) => (float[N,M] y, float[N,M] more) { y = Relu(x) more = Neg(x) }",
    ],
)
def test_another_interface_is_refused(text: str) -> None:
    with pytest.raises(Unsupported, match="became"):
        keep_interface(_graph(SOURCE), _graph(text))
