"""The door to TensorRT says what is missing."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from enginehouse.errors import MissingExtra, NotSupported
from enginehouse.tensorrt_engine import TensorRTEngine


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"enginehouse\[tensorrt\]"):
        TensorRTEngine(Path("model.plan"))


def test_a_plan_is_refused_in_words_although_the_library_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    with pytest.raises(NotSupported, match=r"does not run yet\. Publish an ONNX engine beside it"):
        TensorRTEngine(Path("model.plan"))
