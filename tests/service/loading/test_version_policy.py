"""The version policy of a model, changed while the server runs, over a directory as people leave it."""

import pytest

from enginehouse.errors import Error, InvalidInput, NotFound, NotReady
from service.registry import READY, UNAVAILABLE
from tests.service.conftest import House, publish

NO_VERSIONS = ("0", "007", "v3", "2.old", ".4", "9999999999999999999999", "-1", "1e1", "Ⅷ")


@pytest.fixture
def versions(house: House) -> House:
    """Versions 1, 3 and 10, and directories that are none."""
    for version in (1, 3, 10):
        publish(house.root, version, chosen=version, original=version, built=version)
    for name in NO_VERSIONS:
        (house.root / "m" / name).mkdir()
    return house


def states(house: House) -> dict[str, str]:
    return {version: state for version, (state, _) in house.index().items()}


@pytest.mark.parametrize(
    ("policy", "serving"),
    [
        ("", [10]),
        ("version_policy { latest { num_versions: 1 } }", [10]),
        ("version_policy { latest { num_versions: 2 } }", [3, 10]),
        ("version_policy { latest { num_versions: 9 } }", [1, 3, 10]),
        ("version_policy { all { } }", [1, 3, 10]),
        ("version_policy { specific { versions: [ 3 ] } }", [3]),
        ("version_policy { specific { versions: [ 10, 1 ] } }", [1, 10]),
    ],
)
async def test_each_policy_chooses_among_the_directories_that_are_versions(
    versions: House, policy: str, serving: list[int]
) -> None:
    versions.configure(policy)
    await versions.server.load("m")
    assert [int(version) for version in versions.server.model_metadata("m", "").versions] == serving
    assert [await versions.factor(str(version)) for version in serving] == serving
    assert await versions.factor() == max(serving)
    assert states(versions) == {str(version): READY for version in serving}


async def test_a_change_of_policy_takes_versions_out_and_in_and_tells_of_each(versions: House) -> None:
    versions.configure("version_policy { latest { num_versions: 2 } }")
    await versions.server.load("m")
    versions.configure("version_policy { specific { versions: [ 1, 3 ] } }")
    await versions.server.load("m")
    assert states(versions) == {"1": READY, "3": READY, "10": UNAVAILABLE}
    assert await versions.factor() == 3
    with pytest.raises(NotReady, match="version 10 is not at ready state"):
        await versions.factor("10")
    versions.configure("version_policy { all { } }")
    await versions.server.load("m")
    assert states(versions) == {"1": READY, "3": READY, "10": READY}
    assert await versions.factor() == 10


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("version_policy { specific { versions: [ 1, 2 ] } }", r"names version 2; there are \[1, 3, 10\]"),
        ("version_policy { specific { versions: [ 0 ] } }", "names version 0"),
        ("version_policy { specific { versions: [ -1 ] } }", "names version -1"),
    ],
)
async def test_a_policy_that_names_what_is_not_there_changes_nothing(versions: House, policy: str, reason: str) -> None:
    await versions.server.load("m")
    versions.configure(policy)
    with pytest.raises(InvalidInput, match=f"failed to load 'm': .*{reason}"):
        await versions.server.load("m")
    assert await versions.factor() == 10
    assert states(versions) == {"10": READY}


@pytest.mark.parametrize("version", ["0", "2", "007", "-1", "v3", "1.0", " 1", "9" * 19, "9" * 30])
async def test_a_version_that_is_none_is_the_callers_mistake(versions: House, version: str) -> None:
    await versions.server.load("m")
    with pytest.raises(Error) as told:
        await versions.factor(version)
    assert isinstance(told.value, InvalidInput | NotFound)
