"""Settings come from flags and the environment, are frozen, and refuse what they do not know."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from service.__main__ import main
from service.settings import ENVIRONMENT_PREFIX, Settings

Read = Callable[..., Settings]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    for name in os.environ:
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)

    def from_flags(*flags: str, **environment: str) -> Settings:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliApp.run(Settings, cli_args=["--model-repository", "models", *flags])

    return from_flags


def test_the_defaults_serve_the_loopback_only(read: Read) -> None:
    settings = read()
    assert settings.model_repository == ("models",)
    assert (settings.http_port, settings.grpc_port, settings.metrics_port) == (8000, 8001, 8002)
    assert {settings.http_address, settings.grpc_address, settings.metrics_address} == {"127.0.0.1"}
    assert settings.model_control_mode == "none"
    assert settings.strict_readiness


def test_flags_are_kebab_case_and_repeatable(read: Read) -> None:
    settings = read(
        *("--http-port", "0", "--model-control-mode", "explicit", "--strict-readiness", "false"),
        *("--load-model", "a", "--load-model", "b", "--exit-timeout-secs", "1.5"),
    )
    assert settings.http_port == 0
    assert settings.load_model == ("a", "b")
    assert not settings.strict_readiness
    assert settings.exit_timeout_secs == 1.5


def test_the_environment_sets_what_flags_do_not(read: Read) -> None:
    settings = read(
        "--http-port", "1234", ENGINEHOUSE_HTTP_PORT="99", ENGINEHOUSE_GRPC_PORT="98", ENGINEHOUSE_ID="triton"
    )
    assert (settings.http_port, settings.grpc_port, settings.id) == (1234, 98, "triton")


def test_the_memory_that_a_load_may_take_is_a_share_or_off(read: Read) -> None:
    assert read("--model-load-memory-limit", "0.5").model_load_memory_limit == 0.5
    assert read("--model-load-memory-limit", "off").model_load_memory_limit == "off"


def test_repositories_may_be_several(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("--model-repository", "s3://bucket/models").model_repository == ("models", "s3://bucket/models")
    monkeypatch.setenv("ENGINEHOUSE_MODEL_REPOSITORY", "one, two")
    assert CliApp.run(Settings, cli_args=[]).model_repository == ("one", "two")
    for nothing in ("", ","):
        monkeypatch.setenv("ENGINEHOUSE_MODEL_REPOSITORY", nothing)
        with pytest.raises(ValidationError, match="at least 1 item"):
            CliApp.run(Settings, cli_args=[])


def test_the_repository_may_come_from_the_environment(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    read()
    monkeypatch.setenv("ENGINEHOUSE_MODEL_REPOSITORY", "elsewhere")
    assert CliApp.run(Settings, cli_args=[]).model_repository == ("elsewhere",)


@pytest.mark.parametrize("name", ["ENGINEHOUSE_HTP_PORT", "enginehouse_htp_port"])
def test_an_unknown_variable_is_refused_by_name(read: Read, name: str) -> None:
    with pytest.raises(ValidationError, match=f"unknown environment variables {name}; known"):
        read(**{name: "1"})


def test_settings_are_frozen(read: Read) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        read().http_port = 1


@pytest.mark.parametrize(
    "flags",
    [
        ("--http-port", "65536"),
        ("--http-port", "many"),
        ("--model-control-mode", "sometimes"),
        ("--model-control-mode", "poll", "--repository-poll-secs", "0"),
        ("--exit-timeout-secs", "-1"),
        ("--http-max-input-size", "0"),
        ("--log-level", "loud"),
        ("--load-model", "a"),
    ],
)
def test_a_value_that_makes_no_sense_ends_with_2_and_one_clear_line(
    read: Read, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["service", "--model-repository", "models", *flags])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "--" in line


def test_an_unknown_flag_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["service", "--model-repository", "models", "--htp-port", "1"])
    try:
        code: object = main()
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert "--htp-port" in capsys.readouterr().err


def test_a_missing_repository_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = [flag for name in ("http", "grpc", "metrics") for flag in (f"--{name}-port", "0")]
    monkeypatch.setattr("sys.argv", ["service", "--model-repository", str(tmp_path / "nowhere"), *ports])
    monkeypatch.setattr("service.__main__.configure_logging", lambda _: None)
    assert main() == 1
    assert "nowhere does not exist or is not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is_for(name: str) -> None:
    assert Settings.model_fields[name].description


def test_resources_are_limited_where_the_rate_limiter_is_on(read: Read) -> None:
    flags = ("--rate-limit", "execution_count", "--rate-limit-resource", "R1:4", "--rate-limit-resource", "R2:1:0")
    assert read(*flags).rate_limit_resource == ("R1:4", "R2:1:0")
    with pytest.raises(ValidationError, match="needs --rate-limit execution_count"):
        read("--rate-limit-resource", "R1:4")
    with pytest.raises(ValidationError, match="name:count or name:count:device is expected"):
        read("--rate-limit", "execution_count", "--rate-limit-resource", "R1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--modle-repository", "x"], "--modle-repository is not known; did you mean --model-repository? python"),
        (["--http_port=1"], "--http_port is not known; did you mean --http-port? python"),
        (["--xyzzy"], "--xyzzy is not known; python -m service --help tells all flags."),
        (["lnit", "models"], "'lnit' is no flag; expected flags, or 'lint' and a repository."),
        (["--http-port", "1"], "--model-repository is required; python -m service --help tells all flags"),
        (["--model-repository", "m", "--http-port", "abc"], "--http-port is 'abc': expected a valid integer"),
        (["--model-repository", "m", "--http-port", "70000"], "--http-port is '70000': expected less than or equal"),
        (["--model-repository", "m", "--load-model", "x"], "--load-model needs --model-control-mode explicit"),
    ],
)
def test_a_flag_that_makes_no_sense_is_told_in_one_line_with_what_was_found(
    flags: list[str],
    said: str,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["service", *flags])
    assert main() == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1
