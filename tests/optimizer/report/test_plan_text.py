from pathlib import Path

from optimizer.plan import plan_build
from optimizer.recipe import recipe_from_options
from optimizer.report.plan_text import plan_rows


def rows(model: Path, workdir: Path, data: str | None) -> dict[str, str]:
    recipe = recipe_from_options(model=model, name="small", repository=workdir / "repository", data=data)
    return dict(plan_rows(plan_build(recipe, workdir, is_dry_run=True)))


def test_the_plan_says_what_each_step_will_do(small_model: Path, small_data: Path, tmp_path: Path) -> None:
    plan = rows(small_model, tmp_path, str(small_data))
    assert "opset 20" in plan["import"]
    assert "130 rows: calibration 40, validation 60, test 30, with labels" in plan["data"]
    assert plan["search"].startswith("fp32; openvino fp32; int8; ")
    assert plan["verify"] == "by top1, drop at most 1%"
    assert plan["publish"].startswith(str(tmp_path / "repository" / "small" / "1"))


def test_without_data_the_plan_says_what_will_not_happen(small_model: Path, tmp_path: Path) -> None:
    plan = rows(small_model, tmp_path, None)
    assert "nothing is calibrated" in plan["data"]
    assert plan["verify"] == "by output distance, drop at most 1%"


def test_a_row_function_is_announced(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text("raise SystemExit\n")
    plan = rows(small_model, tmp_path, f"{tmp_path / 'rows.py'}:rows")
    assert "only called by the build itself" in plan["data"]
