"""From the flags that a server of Triton is started with to ours."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from enginehouse.errors import InvalidInput
from service.triton_flags import FALSE, TRITON_FLAGS, TRUE, Flag

_PROGRAM = "tritonserver"
_ALIASES = {"model-store": "model-repository"}
# One value of these holds commas, which would otherwise part a list.
_WITH_COMMAS = ("backend-config", "cache-config", "metrics-config", "trace-config")
_TRACE_SETTINGS = {
    "trace-file": "triton,file",
    "trace-level": "level",
    "trace-rate": "rate",
    "trace-count": "count",
    "trace-log-frequency": "triton,log-frequency",
}
# What is logged once a level is switched off; errors always are.
_LOUDER_THAN = {"log-info": "warning", "log-warning": "error"}


@dataclass(slots=True, frozen=True)
class CommandLine:
    """Arguments for `Settings`.

    Attributes:
        notes: one sentence for each flag that was accepted and does something else here.
    """

    arguments: tuple[str, ...]
    notes: tuple[str, ...] = ()


def translate(arguments: Sequence[str]) -> CommandLine:
    """Take the flags of Triton out or put ours in their place; what Triton does not have either passes as it is.

    A first word `tritonserver` is left out: KServe's runtimes begin their arguments with the program's name.

    Raises:
        InvalidInput: a flag of Triton's that is refused here, or its value.
    """
    ours: list[str] = []
    notes: list[str] = []
    levels: set[str] = set()
    if list(arguments[:1]) == [_PROGRAM]:
        arguments = arguments[1:]
    for name, value, written in _flags(arguments):
        flag = TRITON_FLAGS.get(name)
        if flag is None:
            ours += written
        elif name in ("log-verbose", "log-info", "log-warning", "log-error"):
            levels |= _level(name, value)
        elif flag.standing == "refused":
            _refuse(name, value, flag)
        elif name in _TRACE_SETTINGS:
            ours += _as_ours("trace-config", f"{_TRACE_SETTINGS[name]}={value}", ())
        elif flag.standing == "emulated":
            notes.append(f"--{name} is emulated: {flag.note}.")
        elif name == "disable-auto-complete-config":
            ours += ["--strict-model-config", "true"]
        else:
            ours += _as_ours(name, value, written)
    return CommandLine((*_log_level(levels), *ours), tuple(notes))


def refuse_unknown(arguments: Sequence[str], known: Sequence[str]) -> None:
    """Name a flag that is none, and the one that is most like it.

    Raises:
        InvalidInput: there is one, or the first word is no flag.
    """
    if arguments and not arguments[0].startswith("-"):
        raise InvalidInput(f"'{arguments[0]}' is no flag; expected flags, or 'lint' and a repository.")
    for word in arguments:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in (*known, "help"):
            close = get_close_matches(name, [*known, *TRITON_FLAGS], 1)
            meant = f"did you mean --{close[0]}? " if close else ""
            raise InvalidInput(f"--{name} is not known; {meant}python -m service --help tells all flags.")


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Each flag with its value and as it was written; what is no flag of Triton's is one piece."""
    position = 0
    while position < len(arguments):
        word = arguments[position]
        name, equals, value = word.removeprefix("--").partition("=")
        written = [word]
        flag = TRITON_FLAGS.get(name) if word.startswith("--") else None
        if flag is None:
            name = ""
        elif not equals and flag.takes_value and position + 1 < len(arguments):
            value = arguments[position + 1]
            written.append(value)
        yield name, value, written
        position += len(written)


def _as_ours(name: str, value: str, written: Sequence[str]) -> list[str]:
    if name in _WITH_COMMAS and not value.startswith('"'):
        return [f"--{name}", json.dumps(value)]
    return [written[0].replace(f"--{name}", f"--{_ALIASES.get(name, name)}", 1), *written[1:]]


def _refuse(name: str, value: str, flag: Flag) -> None:
    if value.lower() in flag.harmless:
        return
    harmless = f" Only {' or '.join(flag.harmless)} is accepted." if any(flag.harmless) else ""
    raise InvalidInput(f"--{name} is a flag of Triton's that is refused here: {flag.note}.{harmless}")


def _level(name: str, value: str) -> set[str]:
    """The level that a switch of the log asks for; nothing where it asks for what is logged anyway."""
    if name == "log-verbose":
        return {"debug"} if value.lower() not in FALSE else set()
    if value.lower() in TRUE:
        return set()
    if value.lower() not in FALSE or name not in _LOUDER_THAN:
        raise InvalidInput(f"--{name} is '{value}'; {'true or false' if name in _LOUDER_THAN else 'true'} is expected.")
    return {_LOUDER_THAN[name]}


def _log_level(levels: set[str]) -> list[str]:
    """One level for all switches: who asks for the most is heard, as in Triton."""
    chosen = next((level for level in ("debug", "error", "warning") if level in levels), "")
    return ["--log-level", chosen] if chosen else []
