import pytest

from enginehouse.errors import InvalidInput, NotSupported
from service.codecs.client_tensors import RegionSlice
from service.codecs.parameter_rules import check_name, output_wish
from service.request import Parameter

REGION: dict[str, Parameter] = {"shared_memory_region": "r", "shared_memory_byte_size": 8}


class Memory:
    """A region of eight bytes by the name of `r`, of which only the check is wanted here."""

    def check(self, region: str, offset: int, byte_size: int) -> None:
        if region != "r" or offset + byte_size > 8:
            raise InvalidInput(f"no {byte_size} bytes at {offset} of {region}")

    def view(self, region: str, offset: int, byte_size: int) -> memoryview:  # noqa: ARG002
        raise AssertionError("nobody reads")

    def write(self, region: str, offset: int, byte_size: int, data: bytes | memoryview) -> None:  # noqa: ARG002
        raise AssertionError("nobody writes")


def test_the_protocols_own_names_are_refused_and_others_are_not() -> None:
    check_name("tritonish", "the request")
    with pytest.raises(InvalidInput, match="'triton_mine' of output 'y' is one"):
        check_name("triton_mine", "output 'y'")


def test_an_output_goes_into_the_answer_unless_it_asks_for_another_form() -> None:
    assert output_wish({"binary_data": True}, "y", Memory()) == (None, 0)
    assert output_wish({"classification": 3}, "y", None) == (None, 3)
    assert output_wish(REGION, "y", Memory()) == (RegionSlice("r", 0, 8), 0)


@pytest.mark.parametrize("classes", ["1", True, -1, 2**31, 1.5])
def test_a_number_of_classes_that_is_none_is_refused(classes: Parameter) -> None:
    with pytest.raises(InvalidInput, match=r"'classification' of output 'y' is .* a number of classes is expected"):
        output_wish({"classification": classes}, "y", Memory())


def test_a_place_is_checked_before_anything_is_computed() -> None:
    with pytest.raises(InvalidInput, match="no 8 bytes at 5 of r"):
        output_wish({**REGION, "shared_memory_offset": 5}, "y", Memory())
    with pytest.raises(InvalidInput, match="cannot have both"):
        output_wish({**REGION, "classification": 1}, "y", Memory())
    with pytest.raises(NotSupported, match="output 'y' names a shared memory region"):
        output_wish(REGION, "y", None)
