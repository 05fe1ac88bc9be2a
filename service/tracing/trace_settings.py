"""Which requests are traced, and how much of each: global settings, and those of single models on top."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from enginehouse.errors import InvalidInput, NotSupported

LEVELS = ("TIMESTAMPS", "TENSORS")
OFF = "OFF"

# A file per so many traces at most: they wait in memory until then.
MAX_LOG_FREQUENCY = 100_000
_LARGEST = 2**31 - 1

Changes = Mapping[str, Sequence[str] | None]
"""New values by the name of the setting; None, or no value, goes back to what it was."""


@dataclass(slots=True, frozen=True)
class TraceSettings:
    """Everything that one model's traces go by.

    Attributes:
        trace_file: where they are written; empty for nowhere.
        trace_level: `TIMESTAMPS`, `TENSORS` or both; empty for none.
        trace_rate: one of so many requests is traced.
        trace_count: traces still to be made; -1 for any number.
        log_frequency: traces per file, then numbered; 0 for one file.
    """

    trace_file: str = ""
    trace_level: tuple[str, ...] = ()
    trace_rate: int = 1000
    trace_count: int = -1
    log_frequency: int = 0

    def values(self) -> dict[str, list[str]]:
        """Each setting by its name, as the protocol spells it."""
        found = {name: [str(value)] for name, value in asdict(self).items()}
        return {**found, "trace_level": list(self.trace_level or (OFF,)), "trace_mode": ["triton"]}


def changed(settings: TraceSettings, parsed: Mapping[str, object]) -> TraceSettings:
    """Settings with some values replaced.

    Raises:
        InvalidInput: traces are on, and there is nowhere to write them.
    """
    result: TraceSettings = replace(settings, **parsed)  # type: ignore[arg-type]
    if result.trace_level and not result.trace_file:
        raise InvalidInput(
            "Attempting to set invalid trace setting: trace file name is not given. "
            "Start the server with --trace-config triton,file=PATH."
        )
    return result


def parse_changes(changes: Changes) -> dict[str, object]:
    """Read new values; None stands for those that go back.

    Raises:
        InvalidInput: an unknown name, or a value that is none.
        NotSupported: where traces are written is not for clients to say.
    """
    if "trace_file" in changes:
        raise NotSupported("trace file location can not be updated through network protocol")
    return {name: _parse(name, values) if values else None for name, values in changes.items()}


def settings_from_flags(flags: Sequence[str]) -> TraceSettings:
    """Read `--trace-config` as Triton spells it: `level=TIMESTAMPS`, `rate=1`, `triton,file=trace.json`.

    Raises:
        InvalidInput: an unknown name or value, or a mode that is not `triton`.
    """
    parsed: dict[str, object] = {}
    levels: list[str] = []
    for flag in flags:
        key, _, value = flag.partition("=")
        name = _FLAGS.get(key)
        if key == "mode" and value == "triton":
            continue
        if name is None or not value:
            raise InvalidInput(
                f"--trace-config {flag[:80]} is not supported; expected mode=triton or one of "
                f"{', '.join(f'{known}=VALUE' for known in _FLAGS)}."
            )
        if name == "trace_level":
            levels.append(value)
        else:
            parsed[name] = value if name == "trace_file" else _parse(name, [value])
    if levels:
        parsed["trace_level"] = _parse("trace_level", levels)
    return changed(TraceSettings(), parsed)


_FLAGS = {
    "triton,file": "trace_file",
    "level": "trace_level",
    "rate": "trace_rate",
    "count": "trace_count",
    "triton,log-frequency": "log_frequency",
}
_RANGES = {"trace_rate": (1, _LARGEST), "trace_count": (-1, _LARGEST), "log_frequency": (0, MAX_LOG_FREQUENCY)}


def _parse(name: str, values: Sequence[str]) -> tuple[str, ...] | int:
    if name == "trace_level":
        return _parse_level(values)
    if name not in _RANGES:
        raise InvalidInput(f"unknown trace setting '{name[:80]}'; expected one of trace_level, {', '.join(_RANGES)}.")
    if len(values) != 1:
        raise InvalidInput(f"expect only 1 value for '{name}', got {len(values)}")
    text = values[0]
    low, high = _RANGES[name]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10) or not low <= int(text) <= high:
        raise InvalidInput(f"Unable to parse '{name}', got: {text[:40]}; expected a whole number in [ {low}, {high} ]")
    return int(text)


def _parse_level(values: Sequence[str]) -> tuple[str, ...]:
    if list(values) == [OFF]:
        return ()
    if OFF in values:
        raise InvalidInput("Expect only one trace level 'OFF' is specified")
    unknown = [value for value in values if value not in LEVELS]
    if unknown:
        raise InvalidInput(f"unknown trace level '{unknown[0][:40]}'; expected OFF, or {' and '.join(LEVELS)}.")
    return tuple(level for level in LEVELS if level in values)
