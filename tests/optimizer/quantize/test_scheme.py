import pytest

from optimizer.quantize.scheme import schemes_for
from optimizer.target import target_from_name


@pytest.mark.parametrize(("target", "scheme"), [("vnni", "u8s8"), ("amx", "u8s8"), ("avx2", "u8s7")])
def test_weights_keep_to_seven_bits_where_x86_would_saturate(target: str, scheme: str) -> None:
    assert schemes_for("onnxruntime", target_from_name(target)) == (scheme,)


def test_arm_never_saturates() -> None:
    assert "u8s7" not in schemes_for("onnxruntime", target_from_name("arm64"))


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_takes_only_the_symmetric_one(engine: str) -> None:
    assert schemes_for(engine, target_from_name("sm_89")) == ("s8s8",)  # type: ignore[arg-type]


def test_openvino_tries_both() -> None:
    assert set(schemes_for("openvino", target_from_name("vnni"))) == {"u8s8", "s8s8"}
