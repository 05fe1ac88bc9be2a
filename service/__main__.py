"""`python -m service`, and `python -m service lint REPOSITORY`."""

import os

# gRPC's own lines even hold the bytes that strangers sent. It reads this when it is imported, so that comes first.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import logging
import sys
from collections.abc import Sequence

import uvloop
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliApp, SettingsError

from enginehouse.errors import Error, InvalidInput
from service.app import serve
from service.command_line import refuse_unknown, translate
from service.lint import lint
from service.logs import configure_logging
from service.settings import Settings


def main() -> int:
    """Run the service; 0 after a clean end, 1 if it could not start, 2 for settings that make no sense."""
    if sys.argv[1:2] == ["lint"]:
        return lint(sys.argv[2:])
    try:
        line = translate(sys.argv[1:])
        refuse_unknown(line.arguments, [name.replace("_", "-") for name in Settings.model_fields])
        settings = CliApp.run(Settings, cli_args=list(line.arguments))
    except ValidationError as problem:
        for error in problem.errors():
            print(f"error: {_what_is_wrong(error)}", file=sys.stderr)
        return 2
    except (InvalidInput, SettingsError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level)
    return _serve(settings, line.notes)


def _what_is_wrong(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    name = "".join(f"--{str(part).replace('_', '-')}" for part in error["loc"][:1])
    if error["type"] == "missing":
        return f"{name} is required; python -m service --help tells all flags"
    found = f" is {error['input']!r}" if isinstance(error["input"], str) else ""
    return message if not name or name in message else f"{name}{found}: {message}"


def _serve(settings: Settings, notes: Sequence[str]) -> int:
    for note in notes:
        logging.getLogger(__name__).info(note)
    try:
        uvloop.run(serve(settings, lambda text: print(text, flush=True)))
    except Error as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
