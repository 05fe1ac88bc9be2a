"""`--backend-config`: the largest batch of models that do not say it, and nothing else."""

import json

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.backend_config import max_batch_sizes_from_flags
from service.settings import Settings


def test_sizes_are_by_backend() -> None:
    flags = ["default-max-batch-size=8", "onnxruntime,default-max-batch-size=16", "openvino,default-max-batch-size=0"]
    flags.append("python,shm-default-byte-size=1048576")
    assert max_batch_sizes_from_flags(flags) == {"": 8, "onnxruntime": 16, "openvino": 0}


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("tensorflow,version=2", "is not honoured"),
        ("default-max-batch-size", "is not honoured"),
        (",default-max-batch-size=8", "is not honoured"),
        ("python,default-max-batch-size=8", "is not honoured"),
        ("", "is not honoured"),
        ("default-max-batch-size=many", "needs a number"),
        ("default-max-batch-size=-1", "needs a number"),
        ("default-max-batch-size=2147483648", "needs a number"),
    ],
)
def test_anything_else_is_refused(flag: str, why: str) -> None:
    with pytest.raises(ValidationError, match=f"'{flag}' {why}"):
        CliApp.run(Settings, cli_args=["--model-repository", "models", "--backend-config", json.dumps(flag)])
