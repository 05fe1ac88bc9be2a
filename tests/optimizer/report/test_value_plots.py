import re

import pytest

from enginehouse.evidence import LayerRecord, WorstSample
from optimizer.report.value_plots import bar_cell, chip, layer_stripe, pair_plot, precision_class, share_bar


def layer(name: str, time_ms: float | None) -> LayerRecord:
    return LayerRecord(name=name, operator="Conv", precision="int8", time_ms=time_ms)


def test_a_layer_is_as_wide_as_its_time() -> None:
    widths = [
        float(width) for width in re.findall(r'width="([\d.]+)"', layer_stripe([layer("a", 1.0), layer("b", 3.0)]))
    ]
    assert widths == pytest.approx([249, 749])


def test_layers_without_times_are_equally_wide_and_tiny_ones_are_seen() -> None:
    equal = re.findall(r'width="([\d.]+)"', layer_stripe([layer("a", None), layer("b", None)]))
    assert equal == ["499", "499"]
    tiny = re.findall(r'width="([\d.]+)"', layer_stripe([layer("a", 0.0), layer("b", 3.0)]))
    assert float(tiny[0]) > 50


def test_a_precision_has_its_colour_and_an_unknown_one_a_safe_class() -> None:
    assert precision_class("int4") == "p-int4"
    assert precision_class('x" onload="') == "p-other"
    assert "p-bf16" in chip("bf16")


def test_a_share_is_a_part_of_the_bar_and_a_small_one_has_no_name_in_it() -> None:
    bar = share_bar({"fp32": 0.05, "int8": 0.95, "fp16": 0.0})
    assert bar.index("p-int8") < bar.index("p-fp32")
    assert ">int8 95%<" in bar
    assert 'title="fp32 5.0%"></span>' in bar
    assert "fp16" not in bar


def test_a_cell_without_a_value_sorts_below_all_others() -> None:
    assert 'data-value=""' in bar_cell(None, 0.0, "–")
    assert "width:50.0%" in bar_cell(2.0, 0.5, "2")


def test_bars_stand_on_zero_between_the_extremes() -> None:
    plot = pair_plot(WorstSample(row=0, output="y", difference=1, source=(2.0, -1.0), built=(1.0, -2.0)), 400, 200)
    heights = [float(text) for text in re.findall(r'height="([\d.]+)"', plot)]
    assert heights == pytest.approx([83, 41.5, 41.5, 83])


def test_a_row_of_zeros_is_drawn() -> None:
    assert (
        pair_plot(WorstSample(row=0, output="y", difference=0, source=(0.0,), built=(0.0,)), 400, 200).count("<rect")
        == 2
    )
