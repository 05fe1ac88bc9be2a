"""What a build is asked to do: the options of the command line, typed, checked once and never changed."""

import re
from math import inf
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from enginehouse.errors import InvalidInput
from optimizer.evaluate.metrics import check_metric_name
from optimizer.evaluate.tolerance import Tolerance, tolerance_from_text
from optimizer.target import Target, target_from_name
from optimizer.trial import EngineName

DEFAULT_MAX_BATCH_SIZE = 32
Objective = Literal["latency", "throughput", "size", "memory"]
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smh])")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Recipe(BaseModel):
    """One build.

    Attributes:
        model: the trained model, an ONNX file or a PyTorch program (`.pt2`).
        name: the model's name in the repository.
        repository: the model repository; made if it is not there.
        data: an `.npz` file, a folder of them, or `path.py:function`; without it nothing is quantized.
        metric: None chooses top1 for a classifier with labels, otherwise agreement; or `path.py:function`.
        max_drop: the largest drop of the metric: `1%` is a percentage point, a plain number is taken as it is.
        golden: where the golden samples come from; synthetic where user data must not be shipped.
        max_batch_size: the largest batch that a server may form; None takes what is published, or 32.
        benchmark_seconds: for each batch size, shared by all engines.
        batch_axis: `found` leaves the model's as it is; `open` lets a model with a fixed batch size take any.
        seed: of every random choice.
        precision: `auto` tries all; any other must be reached, or nothing is published.
        engine: `auto` tries all that are installed.
        objective: what the published engine is best at.
        serving_batch: the batch size that matters; None weighs all that are measured alike.
        budget: how long the search may take, such as `10m`; None leaves it unbounded.
        target: the machine that the engine is for: this one, or a name that `optimizer/target.py` knows.
        random_calibration: calibrate and judge on made-up rows where there is no data; stamped on all that comes of it.
        allow_batch_variance: accept engines that answer a row differently when other rows are with it.
        cache: where trials are kept; None keeps them for this build only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path
    name: str
    repository: Path
    data: str | None = None
    metric: str | None = None
    max_drop: str = "1%"
    golden: Literal["calibration", "synthetic"] = "calibration"
    max_batch_size: int | None = Field(default=None, ge=1)
    benchmark_seconds: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    batch_axis: Literal["found", "open"] = "found"
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"] = "auto"
    engine: Literal["auto", EngineName] = "auto"
    objective: Objective = "latency"
    serving_batch: int | None = Field(default=None, ge=1)
    budget: str | None = None
    target: str = "host"
    random_calibration: bool = False
    allow_batch_variance: bool = False
    cache: Path | None = None

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

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, text: str | None) -> str | None:
        if text is not None:
            check_metric_name(text)
        return text

    @field_validator("budget")
    @classmethod
    def _is_duration(cls, text: str | None) -> str | None:
        if text is not None and not _DURATION.fullmatch(text):
            raise ValueError("expected a number with a unit: 90s, 10m or 2h")
        return text

    @field_validator("target")
    @classmethod
    def _is_target(cls, text: str) -> str:
        target_from_name(text)
        return text

    @property
    def tolerance(self) -> Tolerance:
        return tolerance_from_text(self.max_drop)

    @property
    def budget_seconds(self) -> float:
        """Infinite without a budget."""
        match = _DURATION.fullmatch(self.budget or "")
        return float(match[1]) * _SECONDS[match[2]] if match else inf

    @property
    def machine(self) -> Target:
        return target_from_name(self.target)

    @property
    def is_timed(self) -> bool:
        """Whether times taken here mean anything: on the target itself, and not for plans, which are built last."""
        return self.machine.is_host and not self.engine.startswith("tensorrt")


def recipe_from_options(**options: Any) -> Recipe:
    """Check options; raises `InvalidInput` naming the first that is wrong, what it is and what is expected."""
    try:
        return Recipe(**options)
    except InvalidInput as problem:
        # A validator's own: it begins with the name of its option.
        raise InvalidInput(f"--{problem}") from problem
    except ValidationError as problem:
        first = problem.errors()[0]
        text = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        name = str(first["loc"][0]).replace("_", "-")
        if first["type"] == "missing":
            raise InvalidInput(f"--{name} is missing.") from problem
        raise InvalidInput(f"--{name} is {str(first['input'])!r}: {text[0].lower()}{text[1:]}.") from problem
