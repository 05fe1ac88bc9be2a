import numpy as np
import pytest

from optimizer.quantize.observation import BINS, Observation


def test_the_middles_of_bins_lie_evenly_inside_the_range() -> None:
    centres = Observation(-1.0, 3.0).centres
    assert len(centres) == BINS
    assert centres[0] + 1 == pytest.approx(2 / BINS)
    assert 3 - centres[-1] == pytest.approx(2 / BINS)
    np.testing.assert_allclose(np.diff(centres), 4 / BINS)
