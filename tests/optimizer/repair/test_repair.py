from importlib import import_module
from typing import get_args

import pytest

from optimizer.repair.repair import NEEDS_RECALIBRATION, REPAIRS
from optimizer.trial import RepairName


def test_every_repair_is_named_in_the_order_that_trials_promise() -> None:
    assert tuple(REPAIRS) == get_args(RepairName)


@pytest.mark.parametrize("target", REPAIRS.values())
def test_every_repair_can_be_imported(target: str) -> None:
    module, _, function = target.partition(":")
    assert callable(getattr(import_module(module), function))


def test_what_moves_the_ranges_of_activations_is_marked() -> None:
    assert set(REPAIRS) >= NEEDS_RECALIBRATION == {"equalization", "smooth_quant"}
