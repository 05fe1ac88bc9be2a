"""What the log tells and how, as clients may set it while the server runs."""

import logging
import time
from collections.abc import Mapping

from enginehouse.errors import InvalidInput, NotSupported

LogValue = bool | int | str

_SWITCHES = {logging.INFO: "log_info", logging.WARNING: "log_warning", logging.ERROR: "log_error"}
_FORMATS = ("default", "ISO8601")
_LARGEST_LEVEL = 2**32 - 1
_OURS = ("service", "enginehouse")
_LETTERS = {"DEBUG": "V", "INFO": "I", "WARNING": "W", "ERROR": "E", "CRITICAL": "E"}


class LogSettings:
    """The settings of the log, applied to the handlers that a logger has.

    Args:
        logger: whose handlers are told; the root logger of a program.
    """

    def __init__(self, logger: logging.Logger) -> None:
        level = logger.getEffectiveLevel()
        self._values: dict[str, LogValue] = {
            "log_file": "",
            "log_info": level <= logging.INFO,
            "log_warning": level <= logging.WARNING,
            "log_error": level <= logging.ERROR,
            "log_verbose_level": int(level <= logging.DEBUG),
            "log_format": _FORMATS[0],
        }
        self._logger = logger
        self._formatters: dict[logging.Handler, logging.Formatter | None] = {}

    def values(self) -> dict[str, LogValue]:
        """Each setting by its name."""
        return dict(self._values)

    def update(self, changes: Mapping[str, LogValue]) -> None:
        """Change all that is named, or nothing.

        Raises:
            InvalidInput: an unknown name, or a value of another kind.
            NotSupported: where the log is written is not for clients to say.
        """
        if "log_file" in changes:
            raise NotSupported("log file location can not be updated through network protocol")
        for name, value in changes.items():
            _check(name, value)
        if changes:
            self._values.update(changes)
            self._apply()

    def _apply(self) -> None:
        for handler in self._logger.handlers:
            if handler not in self._formatters:
                self._formatters[handler] = handler.formatter
                handler.addFilter(self._is_wanted)
            is_iso = self._values["log_format"] == "ISO8601"
            handler.setFormatter(IsoFormatter() if is_iso else self._formatters[handler])
        if self._values["log_info"]:
            # What was filtered by the level before is let through to the filter.
            self._logger.setLevel(min(self._logger.level, logging.INFO))
        level = logging.DEBUG if self._values["log_verbose_level"] else logging.NOTSET
        for name in _OURS:
            logging.getLogger(name).setLevel(level)

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.INFO:
            return bool(self._values["log_verbose_level"])
        nearest = max(level for level in _SWITCHES if level <= record.levelno)
        return bool(self._values[_SWITCHES[nearest]])


class IsoFormatter(logging.Formatter):
    """Time as ISO 8601 in UTC, the severity as one letter, the process and where the line comes from."""

    def __init__(self) -> None:
        self.converter = time.gmtime
        super().__init__(
            "%(asctime)s %(letter)s %(process)d %(filename)s:%(lineno)d] %(message)s", "%Y-%m-%dT%H:%M:%SZ"
        )

    def format(self, record: logging.LogRecord) -> str:
        record.letter = _LETTERS.get(record.levelname, "I")
        return super().format(record)


def _check(name: str, value: LogValue) -> None:
    if name in _SWITCHES.values():
        if not isinstance(value, bool):
            raise InvalidInput(f"expect boolean for '{name}', got {value!r}")
    elif name == "log_verbose_level":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_LEVEL:
            raise InvalidInput(f"expect a whole number from 0 for '{name}', got {value!r}")
    elif name == "log_format":
        if value not in _FORMATS:
            raise InvalidInput(f"invalid argument for log_format, got: {value!r}; expected one of {list(_FORMATS)}")
    else:
        known = [*_SWITCHES.values(), "log_verbose_level", "log_format"]
        raise InvalidInput(f"unknown log setting '{name[:80]}'; expected one of {known}")
