"""What a request says of its memory."""

import pytest

from enginehouse.dtype import DTYPES
from enginehouse.errors import InvalidInput
from service.codecs.client_tensors import RegionSlice, slice_from_parameters, write_outputs
from service.request import Parameter, WireTensor


class Written(dict[str, bytes]):
    """Takes what is written, by region."""

    def check(self, region: str, offset: int, byte_size: int) -> None: ...

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:  # noqa: ARG002
        raise AssertionError("nobody reads")

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:
        self[f"{region}+{offset}:{byte_size}"] = bytes(data)


def test_a_tensor_without_a_region_is_sent() -> None:
    assert slice_from_parameters({"binary_data_size": 3}, "input 'x'") is None


def test_a_region_comes_with_its_size_and_perhaps_an_offset() -> None:
    given: dict[str, Parameter] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    assert slice_from_parameters(given, "input 'x'") == RegionSlice("r", 0, 8)
    assert slice_from_parameters({**given, "shared_memory_offset": 4}, "input 'x'") == RegionSlice("r", 4, 8)


@pytest.mark.parametrize("value", [-1, 1.0, "1", True, 2**63])
@pytest.mark.parametrize("key", ["byte_size", "offset"])
def test_numbers_that_are_none_are_refused(key: str, value: Parameter) -> None:
    given: dict[str, Parameter] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    with pytest.raises(InvalidInput, match=f"'shared_memory_{key}' of input 'x' is .* a number of bytes from 0"):
        slice_from_parameters({**given, f"shared_memory_{key}": value}, "input 'x'")


def test_outputs_that_have_a_place_are_written_there() -> None:
    tensors = [WireTensor(name, DTYPES["INT8"], (2,), name.encode() * 2) for name in "abc"]
    memory = Written()
    assert write_outputs(tensors, {}, memory) == frozenset()
    assert write_outputs(tensors, {"b": RegionSlice("r", 3, 9), "x": RegionSlice("r", 0, 1)}, memory) == {"b"}
    assert memory == {"r+3:9": b"bb"}


def test_an_output_that_is_larger_than_its_place_is_refused() -> None:
    tensors = [WireTensor("a", DTYPES["INT8"], (2,), b"aa")]
    with pytest.raises(InvalidInput, match=r"for output 'a' \(1 bytes\) should be at least 2 bytes"):
        write_outputs(tensors, {"a": RegionSlice("r", 0, 1)}, Written())
