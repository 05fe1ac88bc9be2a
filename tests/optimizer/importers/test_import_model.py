import shutil
from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput
from optimizer.importers import import_model as module
from optimizer.importers.import_model import import_model

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits.onnx"
RECEIVED: list[tuple[Path, Path]] = []


def convert(source: Path, target: Path) -> None:
    RECEIVED.append((source, target))
    shutil.copy(DIGITS, target)


def test_onnx_file_is_imported_as_it_is(tmp_path: Path) -> None:
    assert import_model(DIGITS, tmp_path).batch_axis_open
    assert list(tmp_path.iterdir()) == []


def test_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    shutil.copy(DIGITS, tmp_path / "DIGITS.ONNX")
    assert import_model(tmp_path / "DIGITS.ONNX", tmp_path).node_count == 25


def test_other_kind_is_converted_into_the_work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CONVERTERS, ".odd", f"{__name__}:convert")
    assert import_model(Path("some/model.odd"), tmp_path).node_count == 25
    assert [(Path("some/model.odd"), tmp_path / "model.onnx")] == RECEIVED


@pytest.mark.parametrize("name", ["model", "model.h5", "model.onnx.txt"])
def test_unknown_kind_is_refused_with_the_known_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"expected a file ending in \.onnx or \.pt2"):
        import_model(Path(name), tmp_path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for suffix in (".onnx", ".pt2"):
        with pytest.raises(InvalidInput):
            import_model(tmp_path / f"gone{suffix}", tmp_path)
