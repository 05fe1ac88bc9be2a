"""Every flag of Triton's server has its word, and the command line keeps to it."""

import re
import sys

import pytest
from pydantic_settings import CliApp

from enginehouse.errors import InvalidInput
from service.__main__ import main
from service.command_line import translate
from service.settings import Settings
from service.triton_flags import TRITON_FLAGS, Flag

ALIASES = {"model-store", "disable-auto-complete-config"}
TRANSLATED = {"log-verbose", "log-info", "log-warning", "log-error"}


@pytest.mark.parametrize(("name", "flag"), TRITON_FLAGS.items())
def test_the_word_of_a_flag_is_true(name: str, flag: Flag) -> None:
    is_ours = name.replace("-", "_") in Settings.model_fields
    if flag.standing == "honoured":
        assert is_ours or name in {"help", *ALIASES}
        assert translate([f"--{name}=x"]).arguments[0].startswith("--")
        return
    assert not is_ours
    assert flag.note
    if flag.standing == "refused":
        with pytest.raises(InvalidInput, match=f"--{name} is a flag of Triton's that is refused here: "):
            translate([f"--{name}", "no such value"])
        for value in flag.harmless:
            assert translate([f"--{name}", value]).arguments == ()
    elif name.startswith("trace-"):
        assert translate([f"--{name}", "1"]).arguments[0] == "--trace-config"
    elif name not in TRANSLATED:
        line = translate([f"--{name}", "1"])
        assert (line.arguments, line.notes) == ((), (f"--{name} is emulated: {flag.note}.",))


def test_flags_that_both_have_pass_as_they_are_written() -> None:
    words = (
        "--http-port",
        "1",
        "--grpc-port=2",
        "--load-model=a",
        "--load-model",
        "b",
        "--drain-delay-secs",
        "3",
        "word",
    )
    assert translate(words).arguments == words
    assert translate(words).notes == ()


def test_another_spelling_becomes_ours() -> None:
    line = translate(["--model-store=/models", "--disable-auto-complete-config", "--model-store", "/other"])
    assert line.arguments == (
        *("--model-repository=/models", "--strict-model-config", "true"),
        *("--model-repository", "/other"),
    )


def test_values_that_ask_for_what_happens_anyway_are_taken() -> None:
    assert translate(["--allow-http", "True", "--allow-grpc=1", "--model-namespacing=off"]).arguments == ()
    with pytest.raises(InvalidInput, match=r"--allow-http is a flag .* Only true or on or 1 is accepted"):
        translate(["--allow-http=false"])


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("--log-verbose 0 --log-info true --log-error on", ()),
        ("--log-verbose=2", ("--log-level", "debug")),
        ("--log-info=0", ("--log-level", "warning")),
        ("--log-info=false --log-warning=false", ("--log-level", "error")),
        ("--log-verbose 1 --log-info false", ("--log-level", "debug")),
    ],
)
def test_switches_of_the_log_become_one_level(words: str, level: tuple[str, ...]) -> None:
    assert translate(words.split()).arguments == level


@pytest.mark.parametrize("words", ["--log-info maybe", "--log-error false"])
def test_a_switch_of_the_log_takes_its_values_only(words: str) -> None:
    with pytest.raises(InvalidInput, match=f"{words.split()[0]} is '{words.split()[1]}'"):
        translate(words.split())


def test_tracing_of_the_older_form_is_told_in_the_newer() -> None:
    line = translate(["--trace-file", "/t.json", "--trace-level=TIMESTAMPS", "--trace-log-frequency=5"])
    assert line.arguments == (
        *("--trace-config", '"triton,file=/t.json"'),
        *("--trace-config", '"level=TIMESTAMPS"'),
        *("--trace-config", '"triton,log-frequency=5"'),
    )


def test_a_value_with_commas_stays_in_one_piece() -> None:
    line = translate(["--backend-config=onnxruntime,default-max-batch-size=2"])
    settings = CliApp.run(Settings, cli_args=["--model-repository", "models", *line.arguments])
    assert settings.backend_config == ("onnxruntime,default-max-batch-size=2",)


def test_a_refused_flag_ends_the_program_before_it_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "--model-repository", "models", "--grpc-use-ssl", "true"])
    assert main() == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: --grpc-use-ssl is a flag of Triton's that is refused here: .*\n", error)


def test_the_lint_is_reached_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(sys, "argv", ["service", "lint", f"{tmp_path}/none"])
    assert main() == 2


def test_a_flag_that_triton_does_not_have_is_left_to_our_own_parser() -> None:
    assert translate(["--no-flag-of-tritons", "word"]).arguments == ("--no-flag-of-tritons", "word")
