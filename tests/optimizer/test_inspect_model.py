from io import StringIO
from pathlib import Path

import onnx
import pytest
from rich.console import Console

from enginehouse.errors import InvalidInput
from optimizer.inspect_model import inspect_table

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx"


def _printed(path: Path) -> str:
    page = StringIO()
    Console(width=200, file=page).print(inspect_table(path))
    return page.getvalue()


def _lines(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")] for line in text.splitlines()]


def test_everything_asked_for_is_printed() -> None:
    lines = _lines(_printed(DIGITS))
    for expected in (
        ["input", "pixels", "FP32", "[open, 1, 8, 8]"],
        ["output", "logits", "FP32", "[open, 10]"],
        ["Conv", "4"],
        ["BatchNormalization", "4"],
        ["parameters", "127,754"],
        ["opset", "ai.onnx 20"],
        ["IR version", "10"],
        ["nodes", "25"],
        ["batch axis", "open"],
    ):
        assert expected in lines


def test_brackets_in_names_are_not_markup(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    )
    model.graph.input[0].name = model.graph.node[0].input[0] = "[bold]x[/nothing]"
    model.producer_name = "[red]"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    text = _printed(tmp_path / "model.onnx")
    assert "[bold]x[/nothing]" in text
    assert "[red]" in text
    assert ["batch axis", "none"] in _lines(text)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("no model")
    with pytest.raises(InvalidInput, match="not an ONNX model"):
        inspect_table(tmp_path / "model.onnx")
