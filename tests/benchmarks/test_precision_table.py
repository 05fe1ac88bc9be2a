import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks import precision_table
from benchmarks.built import Built
from benchmarks.precision_table import figures, row, share_of
from enginehouse.evidence import MetricRecord, Speedup

METRIC = MetricRecord(name="top1", rows=300, source=0.98, candidate=0.975, drop=0.005, drop_upper_95=0.009, p_value=0.2)


def test_a_row_tells_metric_drop_size_latency_and_verdict(measured: Callable[..., Built]) -> None:
    built = measured(
        {1: 0.25}, metric=METRIC, size_bytes=59_000, engine="onnxruntime", speedup=Speedup(median=4.0, lower_95=3.0)
    )
    text = row(built, "fp32", "inside its tolerance")
    assert text.startswith("| mlp | fp32 | onnxruntime | ")
    assert "| top1 98.00% to 97.50% | 0.50 | 96.40% to " in text
    assert text.endswith("| 59 kB | 250 µs | 4.00x | inside its tolerance |")


def test_the_share_is_what_the_engine_itself_says(mlp: Built) -> None:
    assert mlp.evidence is not None
    assert share_of(mlp.evidence, "fp32") == "100%"
    assert share_of(mlp.evidence, "int8") == "0%"
    assert share_of(mlp.evidence.model_copy(update={"engines": ()}), "fp32") == "–"


def test_dynamic_integers_count_as_integers(mlp: Built) -> None:
    assert mlp.evidence is not None
    engines = []
    for engine in mlp.evidence.engines:
        assert engine.proof is not None
        proof = engine.proof.model_copy(update={"layer_share": {"int8": 0.25, "int8_dynamic": 0.5, "fp32": 0.25}})
        engines.append(engine.model_copy(update={"proof": proof}))
    assert share_of(mlp.evidence.model_copy(update={"engines": tuple(engines)}), "int8") == "75%"


def test_a_refusal_has_as_many_cells_as_a_figure_has(mlp: Built, refused: Built) -> None:
    assert list(figures(refused, "bf16")) == ["–"] * 8
    assert len(list(figures(mlp, "fp32"))) == 8
    assert row(refused, "bf16", "x").count("|") == row(mlp, "fp32", "x").count("|") == precision_table._HEAD.count("|")


def test_what_is_refused_is_asked_for_once_more_for_its_size(
    mlp: Built, refused: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    answers = {None: refused, "size": replace(mlp)}

    def build(subject: object, **options: object) -> Built:
        asked.append(options)
        return answers[options.get("objective")]  # type: ignore[index]

    monkeypatch.setattr(precision_table, "build_subject", build)
    built, verdict = precision_table.forced("mlp", "int4", "auto", None)
    assert (built.evidence, verdict) == (mlp.evidence, "inside its tolerance; smaller, not faster")
    answers["size"] = refused
    built, verdict = precision_table.forced("mlp", "int4", "auto", None)
    assert built is refused
    assert verdict == refused.refusal
    assert [options["precision"] for options in asked] == ["int4"] * 4


def test_the_table_numbers_its_notes_and_ends_with_the_hardware(
    mlp: Built, refused: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build(subject: object, **options: object) -> Built:
        return mlp if options["precision"] == "fp32" else refused

    monkeypatch.setattr(precision_table, "build_subject", build)
    monkeypatch.setattr(sys, "argv", ["precision_table", "mlp", "--precisions", "fp32", "fp16", "bf16"])
    precision_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert lines[3].endswith("| cannot be: 1 |")
    assert lines[4].endswith("| cannot be: 2 |")
    assert lines[6].startswith("1. mlp, fp16: ")
    assert "threads" in lines[-1]


def test_an_unknown_model_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["precision_table", "gan"])
    with pytest.raises(SystemExit):
        precision_table.main()
    assert "gan: expected some of cnn, mlp" in capsys.readouterr().err
