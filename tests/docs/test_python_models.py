"""What the page of Python models shows works."""

import re
from pathlib import Path

import numpy as np

from enginehouse.errors import InvalidInput
from enginehouse.model_config import config_from_text
from enginehouse.python_engine import Job, PythonEngine, Reply
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "python_models.md").read_text()


def test_the_first_model_of_the_page_answers(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (config,) = [text for text in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if text.startswith("backend")]
    (tmp_path / "model.py").write_text(source)
    engine = PythonEngine(config_from_text(config, "scale"), tmp_path / "model.py", 0, 1, False)
    try:
        assert engine.run({"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[3, 3]]
        replies: list[Reply] = []
        engine.execute([Job({"x": -np.ones((1, 2), np.float32)}, replies.append)])
        assert isinstance(replies[0].error, InvalidInput)
    finally:
        engine.close()


def test_every_name_that_the_page_imports_is_there() -> None:
    from enginehouse import python_model

    names = re.findall(r"from enginehouse\.python_model import (.*)", PAGE)
    assert names
    for name in ", ".join(names).split(", "):
        assert hasattr(python_model, name), name
