"""Commands that take published versions out of service, and bring them back."""

from pathlib import Path
from typing import Annotated

import typer

from optimizer.cli.terminal import faults_as_one_sentence, plain_console

Name = Annotated[str, typer.Argument(help="The model's name.")]
Repository = Annotated[Path, typer.Option(help="The model repository.")]


def withdraw(
    name: Name,
    version: Annotated[int, typer.Argument(help="Its number.")],
    repository: Repository = Path("model_repo"),
    undo: Annotated[bool, typer.Option("--undo", help="Bring it back.")] = False,
) -> None:
    """Take a version out of service; its evidence stays."""
    with faults_as_one_sentence():
        from optimizer.commands.withdraw import withdraw_version

        _say(withdraw_version(repository, name, version, undo))


def rollback(name: Name, repository: Repository = Path("model_repo")) -> None:
    """Withdraw the newest version of a model."""
    with faults_as_one_sentence():
        from optimizer.commands.withdraw import roll_back_model

        _say(roll_back_model(repository, name))


def _say(text: str) -> None:
    plain_console().print(text, highlight=False, markup=False, soft_wrap=True)
