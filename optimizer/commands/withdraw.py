"""`withdraw` and `rollback`: take a version out of service and say what a server that runs will do."""

from pathlib import Path

from enginehouse.repository import Repository
from optimizer.commands.doctor import check_in_service, withdrawn_versions
from optimizer.publish.withdrawal import restore, roll_back, withdraw


def withdraw_version(repository: Path, name: str, version: int, undo: bool = False) -> str:
    """Take a version out, or with `undo` bring it back; answers what is so now.

    Raises:
        NotFound: there is no such model, or no such version in the state it should be in.
        AlreadyExists: something lies where it would go.
    """
    served = Repository(repository)
    if not undo or not withdrawn_versions(served, name):
        check_in_service(served, name)
    if undo:
        place = restore(repository, name, version)
        return f"version {version} of '{name}' is back in {place}. {_state(repository, name)}"
    place = withdraw(repository, name, version)
    return f"version {version} of '{name}' is withdrawn; its evidence is in {place}. {_state(repository, name)}"


def roll_back_model(repository: Path, name: str) -> str:
    """Withdraw the newest version of a model; answers what is so now.

    Raises:
        NotFound: no such model.
        InvalidInput: it has only one version.
    """
    check_in_service(Repository(repository), name)
    gone, newest = roll_back(repository, name)
    undo = f"`withdraw {name} {gone} --undo` brings {gone} back."
    return f"version {gone} of '{name}' is withdrawn, version {newest} is the newest. {_state(repository, name)} {undo}"


def _state(repository: Path, name: str) -> str:
    """What is left, and how a server that runs hears of it."""
    served = Repository(repository)
    if name not in served.model_names():
        return f"No version is left: unload the model from servers that run: POST /v2/repository/models/{name}/unload."
    versions = ", ".join(map(str, served.versions(name)))
    return f"In the repository: {versions}. Servers that run take it in with POST /v2/repository/models/{name}/load."
