"""How every command meets its terminal: its width, and faults as one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from enginehouse.errors import Error

# The width of output that goes into a file or a pipe.
_PLAIN_WIDTH = 100


def plain_console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH)


@contextmanager
def faults_as_one_sentence() -> Iterator[None]:
    try:
        yield
    except Error as problem:
        _fail(str(problem), 1)
    except OSError as problem:
        where = f" ({problem.filename})" if problem.filename else ""
        _fail(f"the operating system refused: {problem.strerror or problem}{where}.", 1)
    except KeyboardInterrupt:
        _fail("stopped; nothing was published.", 130)


def _fail(message: str, status: int) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(status)
