import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from enginehouse.errors import Error, InvalidInput, Unsupported
from optimizer.importers.onnx_importer import import_onnx

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits.onnx"
RELU = "(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def _write(folder: Path, text: str, opset: int = 20, more_opsets: str = "", ir: int = 10) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}{more_opsets}]> g {text}')
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_digits_model_imports() -> None:
    graph = import_onnx(DIGITS)
    assert graph.batch_axis_open
    assert [str(spec) for spec in (*graph.inputs, *graph.outputs)] == [
        "pixels FP32 [-1, 1, 8, 8]",
        "logits FP32 [-1, 10]",
    ]


def test_several_inputs_and_outputs_import(tmp_path: Path) -> None:
    text = "(float[N,3] x, int64[N,1] k) => (float[N,3] y, int64[N,1] z) { y = Relu(x) z = Neg(k) }"
    graph = import_onnx(_write(tmp_path, text))
    assert ([spec.name for spec in graph.inputs], [spec.name for spec in graph.outputs]) == (["x", "k"], ["y", "z"])
    assert graph.batch_axis_open


def test_text_inputs_import(tmp_path: Path) -> None:
    graph = import_onnx(_write(tmp_path, "(string[N,2] x) => (string[N,2] y) { y = StringConcat(x, x) }"))
    assert str(graph.inputs[0]) == "x BYTES [-1, 2]"


def test_model_without_a_batch_axis_imports(tmp_path: Path) -> None:
    graph = import_onnx(_write(tmp_path, "(float x, float[3] k) => (float[3] y) { y = Mul(x, k) }"))
    assert not graph.batch_axis_open


def test_old_model_with_weights_listed_as_inputs_imports(tmp_path: Path) -> None:
    path = _write(tmp_path, "(float[N,3] x, float[3] W) => (float[N,3] y) { y = Add(x, W) }", opset=8, ir=3)
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "W"))
    onnx.save(model, path)
    assert [spec.name for spec in import_onnx(path).inputs] == ["x"]


def test_operators_of_onnx_runtime_import(tmp_path: Path) -> None:
    text = "(float[N,3] x) => (float[N,3] y) { y = com.microsoft.Gelu(x) }"
    assert import_onnx(_write(tmp_path, text, more_opsets=', "com.microsoft" : 1')).op_counts() == {
        "com.microsoft.Gelu": 1
    }


def test_functions_of_the_model_import(tmp_path: Path) -> None:
    text = """(float[N,3] x) => (float[N,3] y) { y = own.twice(x) }
    <domain: "own", opset_import: ["" : 20]> twice (x) => (y) { y = Add(x, x) }"""
    assert import_onnx(_write(tmp_path, text, more_opsets=', "own" : 1')).op_counts() == {"own.twice": 1}


def test_shape_that_can_be_inferred_is_filled_in(tmp_path: Path) -> None:
    path = _write(tmp_path, RELU)
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    assert import_onnx(path).outputs[0].shape == (-1, 3)


def test_all_unknown_operators_are_named_at_once(tmp_path: Path) -> None:
    text = """(float[N,3] x, bool flag) => (float[N,3] y) {
        a = Frobnicate(x)
        b = com.example.Secret(a)
        c = Upsample<scales = [1.0, 1.0]>(b)
        d = If(flag) <
            then_branch = first () => (float[N,3] t) { t = Innermost(c) },
            else_branch = second () => (float[N,3] e) { e = Relu(c) }
        >
        y = own.wrong(d)
    }
    <domain: "own", opset_import: ["" : 20]> wrong (x) => (y) { y = Deepest(x) }"""
    path = _write(tmp_path, text, more_opsets=', "com.example" : 1, "own" : 1')
    with pytest.raises(Unsupported, match=r": Deepest, Frobnicate, Innermost, Upsample, com\.example\.Secret\."):
        import_onnx(path)


def test_operator_that_the_opset_does_not_have_yet_is_unknown(tmp_path: Path) -> None:
    path = _write(tmp_path, "(float[N,3] x) => (float[N,3] y) { y = Gelu(x) }", opset=19)
    with pytest.raises(Unsupported, match="opset 19 nor ONNX Runtime has: Gelu"):
        import_onnx(path)


@pytest.mark.parametrize(("kind", "opset", "ir"), [("opset", 999, 10), ("IR version", 20, 999)])
def test_model_of_the_future_is_refused_with_what_is_readable(kind: str, opset: int, ir: int, tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=rf"has {kind} 999; the installed ONNX Runtime reads up to \d+\. Export"):
        import_onnx(_write(tmp_path, RELU, opset=opset, ir=ir))


def test_model_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="not a valid ONNX model"):
        import_onnx(_write(tmp_path, RELU.replace("float[N,3] y", "float[N,4] y")))
    with pytest.raises(InvalidInput, match="not a valid ONNX model"):
        import_onnx(_write(tmp_path, RELU.replace("Relu(x)", "Relu(nowhere)")))


def test_model_without_inputs_or_outputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no inputs"):
        import_onnx(_write(tmp_path, "() => (float y) { y = Constant<value_float = 1.0>() }"))


def test_sequences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'y' is of sequence type"):
        import_onnx(_write(tmp_path, "(float[N,3] x) => (seq(float[N,3]) y) { y = SequenceConstruct(x) }"))


def test_operator_without_a_kernel_here_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, "(float[N,3] x) => (float[N,3] y) { y = Dropout<is_test = 1>(x) }", opset=6)
    with pytest.raises(Unsupported, match=r"cannot be run here: .*Dropout"):
        import_onnx(path)


def test_fixed_batch_stays_fixed_unless_asked(tmp_path: Path) -> None:
    path = _write(tmp_path, RELU.replace("[N,3]", "[1,3]"))
    assert not import_onnx(path).batch_axis_open
    assert import_onnx(path, open_batch=True).batch_axis_open


def _is_ours(path: Path) -> bool:
    """Whether the file imports, or is refused by an error of ours in one sentence or two."""
    try:
        import_onnx(path)
    except Error as problem:
        return str(path) in str(problem) or "'" in str(problem)
    return True


def test_file_cut_anywhere_is_refused_in_our_words(tmp_path: Path) -> None:
    whole = DIGITS.read_bytes()
    path = tmp_path / "cut.onnx"
    chosen = random.Random(1)
    ends = [*range(40), *(chosen.randrange(10_000) for _ in range(60)), *(len(whole) - at for at in range(1, 40))]
    for end in ends:
        path.write_bytes(whole[:end])
        with pytest.raises(Error):
            import_onnx(path)


def test_file_with_flipped_bytes_never_ends_in_a_foreign_error(tmp_path: Path) -> None:
    whole = (DIGITS.parent / "digits_mlp.onnx").read_bytes()
    path = tmp_path / "flipped.onnx"
    chosen = random.Random(2)
    for count in [1, 2, 8] * 60:
        damaged = bytearray(whole)
        for _ in range(count):
            damaged[chosen.randrange(min(len(damaged), 6_000))] = chosen.randrange(256)
        path.write_bytes(bytes(damaged))
        assert _is_ours(path)


def test_output_whose_shape_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path, "(float[N,3] x, int64[K] s) => (float[A,B] y) { y = Reshape(x, s) }")
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(InvalidInput, match=r"'y' of .* declares no shape, and none can be inferred"):
        import_onnx(path)
