"""`python -m service`."""

import sys

import uvloop
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from enginehouse.errors import Error
from service.app import serve
from service.logs import configure_logging
from service.settings import Settings


def main() -> int:
    """Run the service; 0 after a clean end, 1 if it could not start, 2 for settings that make no sense."""
    try:
        settings = CliApp.run(Settings, cli_args=sys.argv[1:])
    except ValidationError as problem:
        for error in problem.errors():
            field = "".join(f"--{str(part).replace('_', '-')}: " for part in error["loc"][:1])
            print(f"error: {field}{error['msg']}", file=sys.stderr)
        return 2
    except SettingsError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    configure_logging(settings.log_level)
    try:
        uvloop.run(serve(settings, lambda text: print(text, flush=True)))
    except Error as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
