import onnx

from optimizer.importers.operators import newest_readable, unknown_operators


def _model(text: str, opsets: str = '"" : 20') -> onnx.ModelProto:
    return onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{opsets}]> g {text}")


def test_runtime_tells_what_it_reads() -> None:
    opset, ir = newest_readable("opset"), newest_readable("IR version")
    assert opset is not None
    assert 20 <= opset < 1000
    assert ir is not None
    assert 10 <= ir < 1000


def test_known_operators_of_every_domain_are_not_listed() -> None:
    text = """(float[N,3] x) => (float[N,3] y) {
        a = Relu(x)
        b = com.microsoft.Gelu(a)
        y = ai.onnx.ml.Scaler<offset = [0.0], scale = [1.0]>(b)
    }"""
    assert unknown_operators(_model(text, '"" : 20, "com.microsoft" : 1, "ai.onnx.ml" : 3')) == []


def test_unknown_operator_is_listed_once() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { a = Odd(x) y = Odd(a) }"
    assert unknown_operators(_model(text)) == ["Odd"]


def test_unknown_operator_of_a_known_domain_is_listed() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { y = com.microsoft.Nonsense(x) }"
    assert unknown_operators(_model(text, '"" : 20, "com.microsoft" : 1')) == ["com.microsoft.Nonsense"]
