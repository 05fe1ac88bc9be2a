"""Take a version out of service without losing it: one rename out of every server's sight, and one back.

`withdrawn.2` is no version to this service nor to Triton, keeps its evidence, and keeps its number: no later build
gets it.
"""

from pathlib import Path

from enginehouse.errors import AlreadyExists, InvalidInput, NotFound
from enginehouse.repository import WITHDRAWN_PREFIX, Repository
from optimizer.publish.durable import rename
from optimizer.publish.staging import repository_lock


def withdraw(repository: Path, name: str, version: int) -> Path:
    """Take one version out; it may be the last.

    Returns:
        Where it lies now.

    Raises:
        NotFound: no such model or version.
        AlreadyExists: something lies where it would go.
    """
    served = Repository(repository)
    served.model_directory(name)
    with repository_lock(repository):
        return _move(served.version_directory(name, version), f"{WITHDRAWN_PREFIX}{version}")


def restore(repository: Path, name: str, version: int) -> Path:
    """Bring a withdrawn version back.

    Raises:
        NotFound: it is not withdrawn.
        AlreadyExists: another version has its number.
    """
    withdrawn = Repository(repository).withdrawn_versions(name)
    if version not in withdrawn:
        raise NotFound(f"model '{name}' has no withdrawn version {version}; withdrawn are {withdrawn or 'none'}.")
    with repository_lock(repository):
        return _move(repository / name / f"{WITHDRAWN_PREFIX}{version}", str(version))


def roll_back(repository: Path, name: str) -> tuple[int, int]:
    """Withdraw the newest version, so that the one before it is the newest.

    Returns:
        The version that went and the one that is the newest now.

    Raises:
        NotFound: no such model.
        InvalidInput: there is nothing to go back to.
    """
    versions = Repository(repository).versions(name)
    if len(versions) < 2:
        raise InvalidInput(
            f"model '{name}' has {f'only version {versions[0]}' if versions else 'no version'} in service, so there is "
            "nothing to roll back to. Build another version, or take this one out with `withdraw`."
        )
    withdraw(repository, name, versions[-1])
    return versions[-1], versions[-2]


def _move(directory: Path, name: str) -> Path:
    target = directory.with_name(name)
    if target.exists() or not rename(directory, target):
        raise AlreadyExists(f"{target} is there already. Move it away, then try again.")
    return target
