"""The fake behaves as an engine must."""

import numpy as np
import pytest

from enginehouse.dtype import DTYPES
from enginehouse.engine import Engine
from enginehouse.errors import EngineFailed
from enginehouse.fake_engine import FakeEngine
from enginehouse.tensor import TensorSpec

SPEC = TensorSpec("x", DTYPES["FP32"], (-1,))


def test_the_fake_computes_remembers_and_fails_on_demand() -> None:
    engine = FakeEngine([SPEC], [SPEC], lambda feeds: {"x": feeds["x"] * 2})
    as_engine: Engine = engine
    feeds = {"x": np.ones(2, np.float32)}
    assert as_engine.run(feeds)["x"].tolist() == [2, 2]
    engine.failures.append(ValueError("planted"))
    with pytest.raises(ValueError, match="planted"):
        engine.run(feeds)
    assert engine.run(feeds)["x"].tolist() == [2, 2]
    assert len(engine.runs) == 3


def test_a_closed_fake_fails_as_a_closed_engine_does() -> None:
    engine = FakeEngine([SPEC], [SPEC], dict)
    engine.close()
    engine.close()
    with pytest.raises(EngineFailed, match="closed"):
        engine.run({})
