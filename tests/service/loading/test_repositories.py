"""Several repositories are one, as long as each model lies in one of them."""

from pathlib import Path

import pytest

from enginehouse.errors import InvalidInput, NotFound
from enginehouse.repository import Repository
from service.loading.repositories import Repositories


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    for path in ("one/a/1", "one/both/1", "two/b/2", "two/both/3"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "model.onnx").write_text(path)
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def repositories(roots: tuple[Path, Path]) -> Repositories:
    return Repositories([Repository(root) for root in roots])


def test_each_model_is_found_where_it_lies(repositories: Repositories, roots: tuple[Path, Path]) -> None:
    assert repositories.model_names() == ["a", "b", "both"]
    assert repositories.model_directory("a") == roots[0] / "a"
    assert repositories.model_directory("b") == roots[1] / "b"
    assert repositories.versions("b") == [2]
    assert repositories.version_directory("a", 1) == roots[0] / "a" / "1"
    assert list(repositories.look()["b"]) == ["2/model.onnx"]


def test_a_model_in_two_repositories_is_refused_and_one_in_none_is_not_found(
    repositories: Repositories, roots: tuple[Path, Path]
) -> None:
    with pytest.raises(InvalidInput, match=f"'both' is not unique: {roots[0]} and {roots[1]} hold it"):
        repositories.model_directory("both")
    assert sorted(repositories.look()["both"]) == ["1/model.onnx", "3/model.onnx"]
    with pytest.raises(NotFound, match="model 'nobody' is in none of"):
        repositories.model_directory("nobody")


def test_a_stand_in_is_the_model_until_it_is_taken_away(
    repositories: Repositories, roots: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other" / "a" / "7").mkdir(parents=True)
    assert repositories.stand_in("a", tmp_path / "other") is None
    assert repositories.model_directory("a") == tmp_path / "other" / "a"
    assert repositories.versions("a") == [7]
    assert repositories.version_directory("a", 7).is_dir()
    assert repositories.stand_in("a", None) == tmp_path / "other"
    assert repositories.versions("a") == [1]
