"""A version is taken out of service by one rename, keeps its evidence and its number, and comes back the same way."""

from pathlib import Path

import pytest

from enginehouse.errors import AlreadyExists, InvalidInput, NotFound
from enginehouse.evidence import read_evidence
from enginehouse.repository import Repository
from optimizer.publish.publish import next_version
from optimizer.publish.withdrawal import restore, roll_back, withdraw
from tests.service.conftest import publish


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in (1, 2, 3):
        publish(tmp_path, version)
    (tmp_path / "m" / "config.pbtxt").write_text('name: "m"')
    return tmp_path


def versions(repository: Path) -> list[int]:
    return Repository(repository).versions("m")


def test_a_withdrawn_version_is_out_of_sight_with_all_its_evidence(repository: Path) -> None:
    before = sorted(path.name for path in (repository / "m" / "2").iterdir())
    place = withdraw(repository, "m", 2)
    assert (versions(repository), Repository(repository).withdrawn_versions("m")) == ([1, 3], [2])
    assert sorted(path.name for path in place.iterdir()) == before
    evidence = read_evidence(place)
    assert evidence is not None
    assert evidence.version == 2


def test_no_server_reads_the_name_of_a_withdrawn_version_as_a_number(repository: Path) -> None:
    # Triton takes the digits that a directory's name begins with for a version.
    assert not withdraw(repository, "m", 3).name[0].isdigit()


def test_its_number_is_kept_for_it_and_it_comes_back_as_it_was(repository: Path) -> None:
    withdraw(repository, "m", 3)
    assert next_version(repository / "m") == 4
    assert restore(repository, "m", 3) == repository / "m" / "3"
    assert versions(repository) == [1, 2, 3]
    evidence = read_evidence(repository / "m" / "3")
    assert evidence is not None
    assert evidence.version == 3


def test_rolling_back_takes_the_newest_and_refuses_the_last(repository: Path) -> None:
    assert roll_back(repository, "m") == (3, 2)
    assert roll_back(repository, "m") == (2, 1)
    with pytest.raises(InvalidInput, match="has only version 1 in service, so there is nothing to roll back to"):
        roll_back(repository, "m")
    assert (versions(repository), Repository(repository).withdrawn_versions("m")) == ([1], [2, 3])


def test_a_model_whose_versions_are_all_withdrawn_is_served_by_nobody_until_one_is_back(repository: Path) -> None:
    for version in (1, 2, 3):
        withdraw(repository, "m", version)
    assert Repository(repository).model_names() == []
    with pytest.raises(NotFound):
        roll_back(repository, "m")
    restore(repository, "m", 2)
    assert versions(repository) == [2]


def test_what_is_not_there_is_named_and_nothing_changes(repository: Path) -> None:
    for name, version, message in (
        ("m", 9, "has no version 9"), ("nobody", 1, "'nobody' is not in"), ("../m", 1, "'../m' is not in"),
    ):  # fmt: skip
        with pytest.raises(NotFound, match=message):
            withdraw(repository, name, version)
    with pytest.raises(NotFound, match="no withdrawn version 2; withdrawn are none"):
        restore(repository, "m", 2)
    withdraw(repository, "m", 1)
    with pytest.raises(NotFound, match=r"no withdrawn version 2; withdrawn are \[1\]"):
        restore(repository, "m", 2)
    for name in ("nobody", "../m"):
        with pytest.raises(NotFound):
            restore(repository, name, 1)
    assert versions(repository) == [2, 3]


def test_nothing_that_is_there_is_replaced(repository: Path) -> None:
    withdraw(repository, "m", 2)
    publish(repository, 2)
    for change in (withdraw, restore):
        with pytest.raises(AlreadyExists, match="is there already"):
            change(repository, "m", 2)
    assert versions(repository) == [1, 2, 3]


def test_a_repository_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        withdraw(tmp_path / "nowhere", "m", 1)
    assert not (tmp_path / "nowhere").exists()
