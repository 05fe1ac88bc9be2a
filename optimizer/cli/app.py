"""The command line. A fault of the user ends with one sentence on standard error and exit status 1; Ctrl-C with 130."""

import signal

import typer

from optimizer.cli.build import build
from optimizer.cli.look import bench, check, compare, doctor, inspect, verify
from optimizer.cli.versions import rollback, withdraw

COMMANDS = (build, inspect, check, compare, bench, verify, doctor, withdraw, rollback)


def main() -> None:
    """Run the command line; SIGTERM cleans up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = typer.Typer(
        name="optimizer",
        help="Make a trained model small and fast, prove that it still knows what it knew, and publish it.",
        add_completion=False,
        pretty_exceptions_enable=False,
        no_args_is_help=True,
    )
    for command in COMMANDS:
        app.command()(command)
    app()
