from pathlib import Path

from enginehouse.evidence import Evidence, Golden, LayerRecord, RepairRecord
from enginehouse.hardware import this_hardware
from optimizer.plan import Plan, plan_build
from optimizer.recipe import recipe_from_options
from optimizer.version_record import make_evidence
from tests.enginehouse.conftest import make_record


def small_plan(model: Path, tmp_path: Path) -> Plan:
    recipe = recipe_from_options(model=model, name="small", repository=tmp_path / "repository", serving_batch=8)
    (tmp_path / "work").mkdir()
    return plan_build(recipe, tmp_path / "work", is_dry_run=True)


def test_the_evidence_holds_what_the_build_says_and_what_the_machine_is(small_model: Path, tmp_path: Path) -> None:
    plan = small_plan(small_model, tmp_path)
    layers = [LayerRecord(name="hidden", operator="MatMul", precision="int8")]
    repairs = [RepairRecord(name="equalization", drop_before=0.2, drop_after=0.1)]
    engines = [make_record(), make_record("fallback.onnx", "fallback")]
    evidence = make_evidence(
        plan,
        7,
        passes=(),
        candidates=(),
        chosen="int8",
        reason="the fastest",
        engines=engines,
        golden=Golden(rows=2, synthetic=True),
        layers=layers,
        repairs=repairs,
    )
    assert (evidence.model, evidence.version, evidence.chosen, evidence.serving_batch) == ("small", 7, "int8", 8)
    assert (evidence.layers, evidence.repairs, evidence.engines) == (tuple(layers), tuple(repairs), tuple(engines))
    assert evidence.source.sha256 == plan.source.sha256
    assert evidence.recipe["name"] == "small"
    assert evidence.hardware == this_hardware()
    assert evidence.files == {}
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence
