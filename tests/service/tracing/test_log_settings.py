"""Settings of the log are applied: each line is there or not, and looks as it was asked for."""

import io
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from enginehouse.errors import InvalidInput, NotSupported
from service.tracing.log_settings import LogSettings, LogValue

DEFAULTS: dict[str, LogValue] = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
WORDS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


@dataclass
class Log:
    """A logger of its own with one handler, and what it wrote."""

    logger: logging.Logger
    text: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        handler = logging.StreamHandler(self.text)
        handler.setFormatter(logging.Formatter("plain: %(message)s"))
        self.logger.addHandler(handler)

    def lines(self) -> list[str]:
        """What is written when one line of each severity is logged by the service."""
        self.text.seek(0)
        self.text.truncate()
        source = self.logger.getChild("x")
        source.setLevel(logging.getLogger("service").level)
        for level, word in WORDS.items():
            source.log(level, word)
        return self.text.getvalue().splitlines()


@pytest.fixture
def log() -> Iterator[Log]:
    logger = logging.getLogger("stands_for_the_root")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield Log(logger)
    logger.handlers.clear()
    for name in ("service", "enginehouse"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_the_settings_start_as_the_log_is(log: Log) -> None:
    assert LogSettings(log.logger).values() == DEFAULTS
    log.logger.setLevel(logging.ERROR)
    quiet = LogSettings(log.logger).values()
    assert (quiet["log_info"], quiet["log_warning"], quiet["log_error"]) == (False, False, True)
    log.logger.setLevel(logging.DEBUG)
    assert LogSettings(log.logger).values()["log_verbose_level"] == 1


@pytest.mark.parametrize("name", ["info", "warning", "error"])
def test_each_severity_is_switched_by_itself(log: Log, name: str) -> None:
    settings = LogSettings(log.logger)
    settings.update({f"log_{name}": False})
    kept = [f"plain: {word}" for word in ("info", "warning", "error") if word != name]
    assert log.lines() == kept
    settings.update({f"log_{name}": True})
    assert log.lines() == ["plain: info", "plain: warning", "plain: error"]


def test_a_verbose_log_tells_more(log: Log) -> None:
    settings = LogSettings(log.logger)
    settings.update({"log_verbose_level": 1})
    assert log.lines() == ["plain: debug", "plain: info", "plain: warning", "plain: error"]
    settings.update({"log_verbose_level": 0})
    assert log.lines() == ["plain: info", "plain: warning", "plain: error"]


def test_info_can_be_switched_on_in_a_log_that_began_without(log: Log) -> None:
    log.logger.setLevel(logging.WARNING)
    settings = LogSettings(log.logger)
    assert log.lines() == ["plain: warning", "plain: error"]
    settings.update({"log_info": True})
    assert log.lines() == ["plain: info", "plain: warning", "plain: error"]


def test_the_format_changes_and_comes_back(log: Log) -> None:
    settings = LogSettings(log.logger)
    settings.update({"log_format": "ISO8601"})
    first, second, third = log.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ I \d+ test_log_settings.py:\d+\] info", first)
    assert (second.split()[1], third.split()[1]) == ("W", "E")
    settings.update({"log_format": "default"})
    assert log.lines()[0] == "plain: info"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_info", "true"),
        ("log_error", 1),
        ("log_verbose_level", -1),
        ("log_verbose_level", True),
        ("log_verbose_level", 2**32),
        ("log_verbose_level", "1"),
        ("log_format", "json"),
        ("log_format", True),
        ("log_colour", True),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(log: Log, name: str, value: LogValue) -> None:
    settings = LogSettings(log.logger)
    with pytest.raises(InvalidInput, match=name):
        settings.update({"log_warning": False, name: value})
    assert settings.values() == DEFAULTS
    assert "plain: warning" in log.lines()


def test_where_the_log_goes_is_not_for_clients_to_say(log: Log) -> None:
    with pytest.raises(NotSupported, match="log file location can not be updated through network protocol"):
        LogSettings(log.logger).update({"log_file": "/etc/passwd"})
