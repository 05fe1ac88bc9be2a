from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.plan import plan_build
from optimizer.recipe import recipe_from_options
from optimizer.trial_context import trial_context


def context(model: Path, data: Path, workdir: Path, **options: Any) -> dict[str, Any]:
    workdir.mkdir(exist_ok=True)
    fixed = {"model": model, "name": "small", "repository": workdir / "repository", "data": str(data)}
    plan = plan_build(recipe_from_options(**{**fixed, **options}), workdir, is_dry_run=False)
    return trial_context(plan, plan.graph)


def test_the_same_build_has_the_same_context(small_model: Path, small_data: Path, tmp_path: Path) -> None:
    first = context(small_model, small_data, tmp_path / "a")
    assert first == context(small_model, small_data, tmp_path / "b", name="other", budget="10m")


@pytest.mark.parametrize(
    "change",
    [{"max_drop": "5%"}, {"seed": 1}, {"target": "vnni"}, {"metric": "f1"}, {"allow_batch_variance": True},
     {"max_batch_size": 4}],
)  # fmt: skip
def test_what_changes_a_verdict_changes_the_context(
    small_model: Path, small_data: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    assert context(small_model, small_data, tmp_path) != context(small_model, small_data, tmp_path, **change)


def test_other_rows_change_it(small_model: Path, small_data: Path, small_arrays: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{**small_arrays, "validation/x": small_arrays["validation/x"] * 2})
    other = context(small_model, tmp_path / "other.npz", tmp_path)
    assert other["data"] != context(small_model, small_data, tmp_path)["data"]


def test_a_metric_of_the_user_s_own_counts_with_its_text(small_model: Path, small_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "judge.py"
    found = []
    for text in (
        "def score(outputs, labels): return [1.0] * len(labels)\n",
        "def score(outputs, labels): return labels\n",
    ):
        path.write_text(text)
        found.append(context(small_model, small_data, tmp_path, metric=f"{path}:score")["metric"])
    assert found[0] != found[1]
