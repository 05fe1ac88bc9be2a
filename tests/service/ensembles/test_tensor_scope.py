import pytest

from service.ensembles.tensor_scope import TensorScope
from tests.service.fake_steps import numbers


def test_a_tensor_is_there_for_so_many_looks_and_then_let_go_of() -> None:
    uses = {"t": 2}
    scope = TensorScope(0, 0, uses)
    tensor = scope.tensors["t"] = numbers("t", [1])
    assert scope.use("t") is tensor
    assert "t" in scope.tensors
    assert scope.use("t") is tensor
    assert "t" not in scope.tensors
    assert uses == {"t": 2}
    with pytest.raises(KeyError):
        scope.use("t")
