"""What a build is asked to do: the options of the command line, typed, checked once and never changed."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from enginehouse.errors import InvalidInput
from optimizer.evaluate.metrics import MetricName
from optimizer.evaluate.tolerance import Tolerance, tolerance_from_text

DEFAULT_MAX_BATCH_SIZE = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Recipe(BaseModel):
    """One build.

    Attributes:
        model: the trained model, an ONNX file or a PyTorch program (`.pt2`).
        name: the model's name in the repository.
        repository: the model repository; made if it is not there.
        data: an `.npz` file, a folder of them, or `path.py:function`; without it nothing is quantized.
        metric: None chooses top1 for a classifier with labels, otherwise agreement.
        max_drop: the largest drop of the metric: `1%` is a percentage point, a plain number is taken as it is.
        golden: where the golden samples come from; synthetic where user data must not be shipped.
        max_batch_size: the largest batch that a server may form; None takes what is published, or 32.
        benchmark_seconds: for each batch size, shared by all engines.
        batch_axis: `found` leaves the model's as it is; `open` lets a model with a fixed batch size take any.
        seed: of every random choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    name: str
    repository: Path
    data: str | None = None
    metric: MetricName | None = None
    max_drop: str = "1%"
    golden: Literal["calibration", "synthetic"] = "calibration"
    max_batch_size: int | None = Field(default=None, ge=1)
    benchmark_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    batch_axis: Literal["found", "open"] = "found"
    seed: int = Field(default=0, ge=0)

    @field_validator("name")
    @classmethod
    def _is_name(cls, text: str) -> str:
        if not _NAME.fullmatch(text):
            raise ValueError("expected letters, digits, '.', '_' and '-', and a letter or digit first")
        if text == "stats":
            raise ValueError("the protocol keeps this name: /v2/models/stats answers the statistics of all models")
        return text

    @field_validator("max_drop")
    @classmethod
    def _is_tolerance(cls, text: str) -> str:
        tolerance_from_text(text)
        return text

    @property
    def tolerance(self) -> Tolerance:
        return tolerance_from_text(self.max_drop)


def recipe_from_options(**options: Any) -> Recipe:
    """Check options; raises `InvalidInput` naming the first that is wrong, what it is and what is expected."""
    try:
        return Recipe(**options)
    except ValidationError as problem:
        first = problem.errors()[0]
        text = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        name = str(first["loc"][0]).replace("_", "-")
        raise InvalidInput(f"--{name} is {str(first['input'])!r}: {text[0].lower()}{text[1:]}.") from problem
