"""The tree of errors is what its drawing says."""

import re

from enginehouse import errors
from enginehouse.errors import Error, MissingExtra


def test_the_drawing_names_exactly_the_leaves() -> None:
    drawn = re.findall(r"[├└]─ (\w+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted(
        leaf.__name__ for leaf in Error.__subclasses__() if leaf.__module__ == errors.__name__
    )


def test_a_missing_library_names_its_extra_and_the_command() -> None:
    message = str(MissingExtra("openvino", "openvino", "running model.xml"))
    assert message.startswith("running model.xml needs the library 'openvino'")
    assert 'pip install "enginehouse[openvino]"' in message
