from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput, NotFound
from optimizer.commands.withdraw import roll_back_model, withdraw_version
from tests.service.conftest import publish


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in (1, 2):
        publish(tmp_path, version)
    return tmp_path


def test_it_says_where_the_evidence_is_what_is_left_and_how_servers_hear_of_it(repository: Path) -> None:
    assert withdraw_version(repository, "m", 2) == (
        f"version 2 of 'm' is withdrawn; its evidence is in {repository}/m/withdrawn.2. In the repository: 1. "
        "Servers that run take it in with POST /v2/repository/models/m/load."
    )
    assert withdraw_version(repository, "m", 2, undo=True) == (
        f"version 2 of 'm' is back in {repository}/m/2. In the repository: 1, 2. "
        "Servers that run take it in with POST /v2/repository/models/m/load."
    )


def test_when_none_is_left_servers_must_unload(repository: Path) -> None:
    withdraw_version(repository, "m", 1)
    said = withdraw_version(repository, "m", 2)
    assert said.endswith("unload the model from servers that run: POST /v2/repository/models/m/unload.")
    assert withdraw_version(repository, "m", 1, undo=True).startswith("version 1 of 'm' is back")


def test_rolling_back_says_what_is_newest_now_and_how_to_undo_it(repository: Path) -> None:
    said = roll_back_model(repository, "m")
    assert said.startswith("version 2 of 'm' is withdrawn, version 1 is the newest. In the repository: 1. ")
    assert said.endswith("`withdraw m 2 --undo` brings 2 back.")
    with pytest.raises(InvalidInput, match="only version 1"):
        roll_back_model(repository, "m")
    with pytest.raises(NotFound):
        roll_back_model(repository, "nobody")


def test_an_unknown_model_is_told_what_the_repository_holds(repository: Path) -> None:
    told = rf"^model 'nobody' is not in {repository}; it holds m\.$"
    for undo in (False, True):
        with pytest.raises(NotFound, match=told):
            withdraw_version(repository, "nobody", 1, undo)
    with pytest.raises(NotFound, match=told):
        roll_back_model(repository, "nobody")


def test_a_model_that_is_all_withdrawn_is_told_how_to_bring_it_back(repository: Path) -> None:
    for version in (1, 2):
        withdraw_version(repository, "m", version)
    with pytest.raises(NotFound, match=r"are withdrawn .* `withdraw m 2 --undo` brings 2 back"):
        withdraw_version(repository, "m", 1)
    with pytest.raises(NotFound, match="`withdraw m 2 --undo`"):
        roll_back_model(repository, "m")
    with pytest.raises(NotFound, match="no withdrawn version 7; withdrawn are"):
        withdraw_version(repository, "m", 7, undo=True)
