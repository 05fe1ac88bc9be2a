"""What each option of a build changes, seen in what it publishes."""

import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from enginehouse.errors import InvalidInput, VerifyFailed
from enginehouse.evidence import CandidateRecord
from optimizer.pipeline import Published, build
from optimizer.recipe import recipe_from_options
from optimizer.report.steps import Steps
from tests.conftest import DIGITS, ROOT


class Building:
    """Builds of the digits MLP that remember what they printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed = io.StringIO()

    def __call__(self, **options: Any) -> Published:
        fixed = {
            "model": DIGITS / "digits_mlp.onnx",
            "name": "mlp",
            "repository": self.folder / "repository",
            "data": str(DIGITS / "digits.npz"),
            "engine": "onnxruntime",
            "benchmark_seconds": 0.01,
        }
        return build(recipe_from_options(**{**fixed, **options}), Steps(Console(file=self.printed, width=200)))


@pytest.fixture
def built(tmp_path: Path) -> Building:
    return Building(tmp_path)


def chosen(published: Published) -> CandidateRecord:
    return next(record for record in published.evidence.candidates if record.verdict == "chosen")


def test_a_spent_budget_tries_the_rewritten_graph_and_publishes_all_the_same(built: Building) -> None:
    published = built(budget="0s")
    assert [record.name for record in published.evidence.candidates] == ["source", "fp32"]
    assert "ended by the budget of 0s" in built.printed.getvalue()


def test_made_up_rows_are_stamped_on_all_that_comes_of_them(built: Building) -> None:
    published = built(data=None, random_calibration=True, precision="int8", objective="size", max_drop="20%")
    calibration = published.evidence.calibration
    assert calibration is not None
    assert calibration.is_random
    assert published.evidence.golden.synthetic
    assert "made up" in built.printed.getvalue()
    page = (published.directory / "report.html").read_text()
    assert "made-up" in page or "random" in page


def test_made_up_rows_are_stamped_on_an_engine_without_ranges_too(built: Building) -> None:
    published = built(data=None, random_calibration=True, budget="0s")
    assert published.evidence.chosen in ("source", "fp32")
    calibration = published.evidence.calibration
    assert calibration is not None
    assert (calibration.is_random, calibration.rows, calibration.ranges) == (True, 0, {})
    page = (published.directory / "report.html").read_text()
    assert "alarm red" in page
    assert "Judged on random rows." in page
    assert "no rows were read for its ranges" in page


def test_data_that_looks_wrong_is_recorded_for_an_engine_without_ranges_too(built: Building, tmp_path: Path) -> None:
    published = built(data=str(scaled_digits(tmp_path)), budget="0s")
    calibration = published.evidence.calibration
    assert calibration is not None
    assert (calibration.is_random, calibration.rows, calibration.calibrators) == (False, 0, {})
    assert any("times as wide" in warning for warning in calibration.warnings)
    assert "times as wide" in (published.directory / "report.html").read_text()


def test_good_data_leaves_nothing_to_say_of_an_engine_without_ranges(built: Building) -> None:
    assert built(budget="0s").evidence.calibration is None


def test_without_data_int8_is_refused_and_the_way_out_is_named(built: Building) -> None:
    with pytest.raises(InvalidInput, match="give --data"):
        built(data=None, precision="int8")
    with pytest.raises(InvalidInput, match="--random-calibration is for models without data"):
        built(random_calibration=True)


def test_the_smallest_engine_is_published_where_size_is_the_objective(built: Building) -> None:
    best = chosen(built(objective="size"))
    assert best.size_bytes is not None
    sizes = [one.size_bytes for one in built(objective="size").evidence.candidates if one.verdict == "accepted"]
    assert best.size_bytes <= 1.06 * min(size for size in sizes if size is not None)


def test_memory_is_measured_where_it_is_the_objective(built: Building) -> None:
    published = built(objective="memory", budget="0s")
    measured = [record.memory_bytes for record in published.evidence.candidates]
    assert all(one is not None for one in measured)


def test_the_serving_batch_is_measured_and_recorded(built: Building) -> None:
    published = built(serving_batch=3, max_batch_size=4, budget="0s")
    assert published.evidence.serving_batch == 3
    fp32 = next(record for record in published.evidence.candidates if record.name == "fp32")
    assert [point.batch for point in fp32.latency] == [1, 2, 3, 4]
    with pytest.raises(InvalidInput, match="--serving-batch is 9"):
        built(serving_batch=9, max_batch_size=4)


def test_dynamic_int8_is_only_built_where_rows_may_change_with_their_company(built: Building) -> None:
    def has_dynamic(published: Published) -> bool:
        return any(record.precision == "int8_dynamic" for record in published.evidence.candidates)

    assert not has_dynamic(built(budget="20s"))
    assert has_dynamic(built(allow_batch_variance=True))


def test_a_metric_of_the_user_s_own_judges(built: Building, tmp_path: Path) -> None:
    path = tmp_path / "judge.py"
    path.write_text(
        "def margin(outputs, labels):\n"
        "    logits = outputs['logits']\n"
        "    return logits[range(len(labels)), labels] - logits.mean(axis=1)\n"
    )
    published = built(metric=f"{path}:margin", max_drop="5%", budget="0s")
    assert published.evidence.test is not None
    assert published.evidence.test.metric == f"{path}:margin"
    assert published.evidence.test.source > 1.0


def test_a_second_build_makes_nothing_again(built: Building, tmp_path: Path) -> None:
    built(cache=tmp_path / "cache", precision="int8", objective="size")
    built.printed.truncate(0)
    built(cache=tmp_path / "cache", precision="int8", objective="size")
    line = next(one for one in built.printed.getvalue().splitlines() if one.startswith("search"))
    trials, cached = int(line.split("trials")[0].split()[-1]), int(line.split(" from the cache")[0].split()[-1])
    assert cached == trials


def test_another_tolerance_is_another_verdict_and_not_the_cached_one(built: Building, tmp_path: Path) -> None:
    built(cache=tmp_path / "cache", precision="int8", objective="size")
    with pytest.raises(VerifyFailed, match="no candidate is inside the tolerance"):
        built(cache=tmp_path / "cache", precision="int8", objective="size", max_drop="-50%")


def kept_trials(folder: Path) -> list[Path]:
    return [path for path in (folder / "cache").glob("*/trial.json") if not path.parent.name.startswith(".")]


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ["--name", "mlp", "--repository", tmp_path / "repository", "--data", DIGITS / "digits.npz"]
    options += ["--cache", tmp_path / "cache", "--engine", "onnxruntime", "--benchmark-seconds", "0.01"]
    command = [sys.executable, "-m", "optimizer", "build", DIGITS / "digits_mlp.onnx", *options]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, cwd=ROOT)
    while process.poll() is None and not kept_trials(tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(kept_trials(tmp_path))
    assert kept >= 1
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True)
    line = next(one for one in done.stdout.splitlines() if one.startswith("search"))
    assert int(line.split(" from the cache")[0].split()[-1]) >= kept
    assert (tmp_path / "repository" / "mlp" / "1" / "evidence.json").is_file()


def scaled_digits(folder: Path) -> Path:
    """Rows to calibrate on that are a hundred times as wide as those that are judged."""
    with np.load(DIGITS / "digits.npz") as data:
        arrays = {name: data[name] for name in data.files}
    arrays["calibration/pixels"] = arrays["calibration/pixels"] * 100
    np.savez(folder / "scaled.npz", **arrays)
    return folder / "scaled.npz"


def test_data_that_looks_wrong_is_warned_of_and_recorded(built: Building, tmp_path: Path) -> None:
    published = built(data=str(scaled_digits(tmp_path)), precision="int8", objective="size", max_drop="99%")
    assert "warning" in built.printed.getvalue()
    assert published.evidence.calibration is not None
    assert any("times as wide" in warning for warning in published.evidence.calibration.warnings)
