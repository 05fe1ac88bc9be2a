from typing import Any

import pytest

from tests.service.conftest import Bench, MakeBench, Y
from tests.service.sequence_bench import INPUTS, NEW_SUM, accumulate, config


@pytest.fixture
def accumulator(bench: MakeBench) -> Any:
    def make(text: str | None = None) -> Bench:
        return bench(text or config(), accumulate, INPUTS, (Y, NEW_SUM))

    return make
