"""Python models in real processes of their own, and who listens to what they answer."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np

from enginehouse.model_config import config_from_text
from enginehouse.python_engine import Job, PythonEngine, Reply

CONFIG = """
backend: "python"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""
HEAD = "import os, threading, time\nimport numpy as np\nfrom enginehouse.python_model import *\n"
Make = Callable[..., PythonEngine]


def opened_models(tmp_path: Path) -> Iterator[Make]:
    """Gives a function that opens a model from its source; all that it opened are closed at the end."""
    made: list[PythonEngine] = []

    def open_model(source: str, config: str = CONFIG, instance: int = 0) -> PythonEngine:
        (tmp_path / "3").mkdir(exist_ok=True)
        (tmp_path / "3" / "model.py").write_text(HEAD + dedent(source))
        made.append(PythonEngine(config_from_text(config, "m"), tmp_path / "3" / "model.py", instance, 1, False))
        return made[-1]

    yield open_model
    for engine in made:
        engine.close()


class Heard:
    """Collects the replies to one request."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.is_over = threading.Event()

    def take(self, reply: Reply) -> None:
        assert not self.is_over.is_set(), "nothing comes after the last reply"
        self.replies.append(reply)
        reply.taken()
        if reply.is_last:
            self.is_over.set()

    @property
    def last(self) -> Reply:
        assert self.is_over.wait(30)
        return self.replies[-1]


def job(heard: Heard, value: float = 1, **fields: Any) -> Job:
    return Job({"x": np.full((1, 2), value, np.float32)}, heard.take, ["y"], **fields)
