"""Settings of traces: as they are given at the start, and as clients change them."""

import pytest

from enginehouse.errors import InvalidInput, NotSupported
from service.tracing.trace_settings import TraceSettings, parse_changes, settings_from_flags


def test_flags_are_triton_s() -> None:
    assert settings_from_flags(()) == TraceSettings()
    flags = ("mode=triton", "triton,file=/tmp/t.json", "level=TENSORS", "level=TIMESTAMPS", "rate=2", "count=-1")
    wanted = TraceSettings("/tmp/t.json", ("TIMESTAMPS", "TENSORS"), 2, -1, 0)
    assert settings_from_flags(flags) == wanted
    assert settings_from_flags(("triton,log-frequency=5",)).log_frequency == 5
    assert settings_from_flags(("level=OFF",)).trace_level == ()


@pytest.mark.parametrize(
    "flag",
    [
        "mode=opentelemetry",
        "opentelemetry,url=x",
        "rate",
        "rate=",
        "rate=0",
        "rate=x",
        "level=ALL",
        "count=-2",
        "other=1",
    ],
)
def test_flags_that_are_not_honoured_are_refused(flag: str) -> None:
    with pytest.raises(InvalidInput):
        settings_from_flags((flag,))


def test_traces_need_a_file() -> None:
    with pytest.raises(InvalidInput, match=r"trace file name is not given.*--trace-config triton,file=PATH"):
        settings_from_flags(("level=TIMESTAMPS",))


def test_values_are_told_as_the_protocol_spells_them() -> None:
    assert TraceSettings().values() == {
        "trace_file": [""],
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_mode": ["triton"],
    }
    assert TraceSettings(trace_level=("TENSORS",)).values()["trace_level"] == ["TENSORS"]


def test_changes_are_read_and_nothing_means_back() -> None:
    changes = {"trace_level": ["TENSORS", "TIMESTAMPS"], "trace_rate": ["5"], "trace_count": None, "log_frequency": []}
    assert parse_changes(changes) == {
        "trace_level": ("TIMESTAMPS", "TENSORS"),
        "trace_rate": 5,
        "trace_count": None,
        "log_frequency": None,
    }


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("trace_rate", ["0"], "Unable to parse 'trace_rate', got: 0"),
        ("trace_rate", ["-"], "Unable to parse"),
        ("trace_rate", ["1.5"], "Unable to parse"),
        ("trace_rate", ["٣"], "Unable to parse"),
        ("trace_rate", ["9" * 5000], "Unable to parse"),
        ("trace_rate", ["1", "2"], "expect only 1 value for 'trace_rate'"),
        ("trace_count", ["-2"], "Unable to parse 'trace_count'"),
        ("log_frequency", ["100001"], "Unable to parse 'log_frequency'"),
        ("trace_level", ["OFF", "TENSORS"], "only one trace level 'OFF'"),
        ("trace_level", ["MAX"], "unknown trace level 'MAX'"),
        ("trace_mode", ["triton"], "unknown trace setting 'trace_mode'"),
    ],
)
def test_changes_that_make_no_sense_are_refused(name: str, values: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_changes({name: values})


def test_the_file_is_not_for_clients_to_say() -> None:
    with pytest.raises(NotSupported, match="trace file location can not be updated through network protocol"):
        parse_changes({"trace_file": ["/etc/passwd"]})
