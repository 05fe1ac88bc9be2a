import sys
from collections.abc import Callable

import pytest

from benchmarks import optimizer_table
from benchmarks.built import Built
from benchmarks.optimizer_table import chosen_text, row, verdict
from enginehouse.evidence import MetricRecord


def metric(drop: float) -> MetricRecord:
    return MetricRecord(
        name="top1", rows=300, source=0.98, candidate=0.98 - drop, drop=drop, drop_upper_95=drop, p_value=0.2
    )


def test_a_row_tells_both_latencies_both_ratios_and_what_was_chosen(measured: Callable[..., Built]) -> None:
    text = row(measured({1: 0.25, 8: 0.5}, metric=metric(0.002), size_bytes=2_500_000, engine="openvino"), "auto")
    assert text.startswith("| mlp | auto | 1.000 ms | 0.250 ms | 4.00x | 1.000 ms | 0.500 ms | 2.00x | ")
    assert "| top1 0.9800 to 0.9780 | openvino: planted | 2.50 MB | " in text
    assert text.endswith(" s | holds |")


def test_an_engine_that_is_slower_than_its_source_breaks_a_promise(measured: Callable[..., Built]) -> None:
    assert verdict(measured({1: 0.5, 8: 1.2})) == "slower than its source at batch 8"
    assert verdict(measured({1: 1.02, 8: 1.02})) == "holds"


def test_a_drop_beyond_the_tolerance_breaks_the_other(measured: Callable[..., Built]) -> None:
    assert verdict(measured({1: 0.5}, metric=metric(0.011))) == "outside its tolerance"
    assert verdict(measured({1: 0.5}, metric=metric(0.009))) == "holds"


def test_a_refusal_is_told_and_has_no_figures(mlp: Built, refused: Built) -> None:
    assert verdict(refused).startswith("refused: onnxruntime bf16 was asked for")
    heads = optimizer_table._HEAD.count("|")
    assert row(refused, "auto").count("|") == row(mlp, "auto").count("|") == heads


def test_the_source_itself_may_be_what_was_chosen(mlp: Built) -> None:
    assert mlp.evidence is not None
    assert chosen_text(mlp.evidence.candidates[0]) == "source"
    assert chosen_text(mlp.evidence.candidates[1]) == "onnxruntime: fp32"
    assert chosen_text(None) == "–"


def test_the_table_has_a_line_for_each_model_and_engine(
    mlp: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def build(subject: object, **options: object) -> Built:
        asked.append(options)
        return mlp

    monkeypatch.setattr(optimizer_table, "build_subject", build)
    monkeypatch.setattr(sys, "argv", ["optimizer_table", "mlp", "cnn", "--budget", "2m"])
    optimizer_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 4 + 2
    assert asked == [{"engine": engine, "budget": "2m"} for _ in range(2) for engine in ("onnxruntime", "auto")]


def test_an_unknown_model_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["optimizer_table", "gan"])
    with pytest.raises(SystemExit):
        optimizer_table.main()
    assert "gan: expected some of cnn, mlp" in capsys.readouterr().err
