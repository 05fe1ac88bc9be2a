import pytest

from tests.optimizer.quantize.graphs import restart_weights


@pytest.fixture(autouse=True)
def same_weights() -> None:
    restart_weights()
